// The alerts of the Prometheus that the console was told of: asked for beside the run, which has none of its own.
import { ask } from "./api.js";
import { element, figure, moment } from "./words.js";

const ASK_MS = 5000;
const HEAD = ["alert", "state", "since", "what", "of", "runbook"];
const byId = (id) => document.getElementById(id);

export class Alerts {
  /** Asks as long as the page is open; once, where the console knows no Prometheus. */
  async follow() {
    let more = true;
    try {
      if (!document.hidden) more = this.show(await ask("alerts"));
    } catch (error) {
      this.tell([], `The alerts cannot be asked for: ${error.message}`, true);
    }
    if (more) setTimeout(() => this.follow(), ASK_MS);
  }

  /** True: there is a Prometheus to ask again. */
  show({ prometheus, alerts, trouble }) {
    const firing = alerts.filter(({ state }) => state === "firing").length;
    if (prometheus === null) this.tell([], "The console knows no Prometheus, which has the alerts: ais console RUN --prometheus URL", false);
    else if (trouble) this.tell([], `${prometheus}: ${trouble}`, true);
    else this.tell(alerts, alerts.length ? `${prometheus}: ${figure(firing)} firing, ${figure(alerts.length - firing)} pending` : `${prometheus}: no alert fires.`, false);
    byId("firing").hidden = !firing;
    byId("firing-link").textContent = `${firing === 1 ? "An alert fires" : `${figure(firing)} alerts fire`}: ${[...new Set(alerts.filter(({ state }) => state === "firing").map(({ name }) => name))].join(", ")}`;
    return prometheus !== null;
  }

  tell(alerts, text, bad) {
    const told = JSON.stringify([alerts, text]);
    if (told === this.told) return; // who reads it keeps the place
    this.told = told;
    byId("alerts-told").textContent = text;
    byId("alerts-told").className = bad ? "reason" : "note";
    byId("alert-table").hidden = !alerts.length;
    byId("alert-table").replaceChildren(
      element("thead", {}, element("tr", {}, ...HEAD.map((cell) => element("th", { scope: "col" }, cell)))),
      element("tbody", {}, ...alerts.map(row)));
  }
}

function row({ name, state, severity, since, summary, about, runbook }) {
  const cells = [[state, severity].filter(Boolean).join(", "), moment(since), summary, about, where(runbook)];
  return element("tr", { class: state === "firing" ? "firing" : null }, element("th", { scope: "row" }, name), ...cells.map((cell) => element("td", {}, cell)));
}

/** A link where the rule has a whole address. */
const where = (runbook) => (/^https?:\/\//.test(runbook) ? element("a", { href: runbook, rel: "noreferrer noopener", target: "_blank" }, "runbook") : runbook);
