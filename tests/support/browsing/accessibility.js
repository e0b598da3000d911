// Faults of the page that is open, for those who cannot see it well: an array of [what is wrong, where].
(() => {
  const CONTRAST = 4.5; // WCAG 2, level AA
  const parts = (colour) => colour.match(/[\d.]+/g).map(Number);
  const linear = (share) => (share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4);
  const luminance = ([red, green, blue]) =>
    0.2126 * linear(red / 255) + 0.7152 * linear(green / 255) + 0.0722 * linear(blue / 255);

  function ground(element) {
    for (let one = element; one; one = one.parentElement) {
      const colour = parts(getComputedStyle(one).backgroundColor);
      if ((colour[3] ?? 1) > 0) return colour;
    }
    return [255, 255, 255];
  }

  function contrast(element) {
    const pair = [luminance(parts(getComputedStyle(element).color)), luminance(ground(element))];
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  }

  const hasText = (element) => [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim());
  const named = (element) =>
    element.labels?.length || element.textContent.trim() || element.ariaLabel || element.getAttribute("aria-labelledby");
  const seen = [...document.querySelectorAll("body *")].filter((element) => element.checkVisibility());
  const ids = seen.map(({ id }) => id).filter(Boolean);
  const told = (what, elements) => elements.map((element) => [what, element.outerHTML.slice(0, 120)]);
  return [
    ...told("pale text", seen.filter((element) => hasText(element) && contrast(element) < CONTRAST)),
    ...told("a control without a name", seen.filter((element) => element.matches("button, select, input, a, [tabindex]") && !named(element))),
    ...ids.filter((id, place) => ids.indexOf(id) !== place).map((id) => ["an id twice", id]),
    ...told("a table head without scope", seen.filter((element) => element.matches("th:not([scope])"))),
    ...(document.documentElement.scrollWidth > innerWidth ? [["wider than the screen", document.documentElement.scrollWidth]] : []),
  ];
})()
