// The tokens of one step by log-ratio, as bars: part of the page, so that readers of every kind can read them.
import { element, figure } from "./words.js";

export class Histogram {
  constructor(panel) {
    this.panel = panel;
    this.step = null;
    this.legend = element("p", { class: "legend" });
    this.bars = element("ul", { class: "bars", tabindex: 0, "aria-label": panel.title });
    this.figure = element("figure", { hidden: true }, element("h3", {}, panel.title), this.legend, this.bars, element("figcaption", {}, panel.caption));
  }

  show([run]) {
    this.curves = run.curves;
    this.keys = run.curves.keysOf(this.panel.prefix);
    this.figure.hidden = !this.keys.length;
    if (this.keys.length) this.draw();
  }

  /** Shows the step at or after `step`; null: the last one. */
  read(step) {
    if (step === this.step || !this.keys?.length) return;
    this.step = step;
    this.draw();
  }

  draw() {
    const { steps, series } = this.curves;
    const found = this.step === null ? -1 : steps.findIndex((one) => one >= this.step);
    const place = found < 0 ? steps.length - 1 : found;
    const counts = this.keys.map((key) => series[key].mean[place] ?? 0);
    const sum = counts.reduce((all, one) => all + one, 0);
    const most = Math.max(...counts, 1e-12);
    this.legend.textContent = `step ${figure(steps[place])}: ${figure(sum)} tokens`;
    this.bars.replaceChildren(...this.keys.map((key, at) => {
      const bar = element("span", { class: "bar" });
      bar.style.setProperty("--share", counts[at] / most);
      const upper = key.slice(this.panel.prefix.length);
      const label = upper === "+Inf" ? `> ${lower(this.keys[at - 1], this.panel.prefix)}` : `≤ ${upper}`;
      return element("li", {}, element("span", { class: "bound" }, label), bar, element("span", { class: "count" }, `${figure((100 * counts[at]) / (sum || 1), 3)} %`));
    }));
  }
}

const lower = (key, prefix) => (key ? key.slice(prefix.length) : "");
