// Evaluations, events, logs and settings.
import { ask, askText } from "./api.js";
import { element, moment } from "./words.js";

const byId = (id) => document.getElementById(id);

export function showScores(scores) {
  const passes = [...new Set(scores.flatMap(({ passed }) => Object.keys(passed)))];
  const head = ["step", "policy", "prompts of", "reward, ± 95%", ...passes, "prompts × samples", "made"];
  const rows = scores.toReversed().map((one) => [one.step, one.policy, one.source, `${one.reward.toFixed(3)} ± ${one.interval.toFixed(3)}`,
    ...passes.map((name) => one.passed[name]?.toFixed(3) ?? ""), `${one.prompts} × ${one.samples}`, one.when]);
  byId("no-scores").hidden = scores.length > 0;
  byId("scores").hidden = !scores.length;
  byId("scores").replaceChildren(
    element("thead", {}, element("tr", {}, ...head.map((cell) => element("th", { scope: "col" }, cell)))),
    element("tbody", {}, ...rows.map(([first, ...rest]) => element("tr", {}, element("th", { scope: "row" }, String(first)), ...rest.map((cell) => element("td", {}, String(cell)))))));
}

export function showEvents(events) {
  byId("no-events").hidden = events.length > 0;
  byId("event-list").replaceChildren(...events.map(({ time, step, kind, message, level }) =>
    element("li", { class: level }, element("span", { class: "note" }, `step ${step ?? "–"} · ${moment(time)}`), element("b", {}, kind), element("span", {}, message))));
}

export class Logs {
  constructor() {
    byId("log").addEventListener("change", () => this.read());
    byId("again").addEventListener("click", () => this.read());
  }

  async open(run) {
    this.run = run;
    const { logs } = await ask("logs", { run });
    byId("log").replaceChildren(element("option", { value: "" }, "choose one"), ...logs.map((name) => element("option", {}, name)));
    byId("log-text").hidden = true;
  }

  async read() {
    const name = byId("log").value;
    byId("log-text").hidden = !name;
    if (!name) return;
    byId("log-text").textContent = await askText("log", { run: this.run, name });
    byId("log-text").scrollTop = byId("log-text").scrollHeight;
  }
}

export function readSettingsWhenOpened(run) {
  byId("settings").ontoggle = async () => {
    if (byId("settings").open) byId("settings-text").textContent = await askText("settings", { run: run() });
  };
}
