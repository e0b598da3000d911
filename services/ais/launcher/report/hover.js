// Shows the values of the step under the pointer, a finger or the arrow keys. Without scripts the plots are still there.
for (const chart of document.querySelectorAll(".chart")) {
  const data = JSON.parse(chart.querySelector("script").textContent);
  const tip = document.createElement("output");
  const line = document.createElement("i");
  tip.hidden = line.hidden = true;
  chart.append(line, tip);
  let index = data.steps.length - 1;

  function show(at) {
    index = Math.max(0, Math.min(data.steps.length - 1, at));
    const step = data.steps[index];
    const share = (step - data.first) / (data.last - data.first || 1);
    const x = data.left + share * (data.right - data.left);
    line.style.left = `${100 * x}%`;
    const values = data.series.map(([label, values]) => [label, values[index]]).filter(([, value]) => value !== null);
    tip.textContent = [`step ${step}`, ...values.map(([label, value]) => `${label}: ${value}`)].join("\n");
    tip.style.left = x < 0.5 ? `${100 * x}%` : "auto";
    tip.style.right = x < 0.5 ? "auto" : `${100 * (1 - x)}%`;
    tip.hidden = line.hidden = false;
  }

  function nearest(event) {
    const box = chart.getBoundingClientRect();
    const share = ((event.clientX - box.left) / box.width - data.left) / (data.right - data.left);
    const step = data.first + share * (data.last - data.first);
    let best = 0;
    data.steps.forEach((one, at) => {
      if (Math.abs(one - step) < Math.abs(data.steps[best] - step)) best = at;
    });
    return best;
  }

  const hide = () => (tip.hidden = line.hidden = true);
  chart.addEventListener("pointermove", (event) => show(nearest(event)));
  chart.addEventListener("pointerdown", (event) => show(nearest(event)));
  chart.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide());
  chart.addEventListener("blur", hide);
  chart.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (move) {
      event.preventDefault();
      show(index + move);
    }
  });
}
