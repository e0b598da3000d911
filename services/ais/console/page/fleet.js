// The replicas of a run: those that need a look come first.
import { duration, element, figure } from "./words.js";

const byId = (id) => document.getElementById(id);
const MOST_ROWS = 50; // of a large fleet the others are found by name
const HEAD = ["replica", "state", "version", "precision", "running of slots", "waiting", "probe gap of allowed, nats", "tokens of the last batch", "mean |log-ratio|, nats"];
const NEAR_LIMIT = 0.8; // share of the allowed probe gap, as of the alert AisProbeGapNearLimit

export class Fleet {
  constructor() {
    this.fleet = { replicas: [] };
    byId("fleet-text").addEventListener("input", () => this.draw());
    byId("fleet-search").addEventListener("submit", (event) => event.preventDefault());
  }

  show(fleet) {
    this.fleet = fleet;
    this.draw();
  }

  /** How old it is, which changes without anything new. */
  age(now) {
    const { time, replicas } = this.fleet;
    byId("fleet-age").textContent = replicas.length && time ? `as of ${duration(Math.max(0, now - time))} ago` : "";
  }

  draw() {
    const { version, replicas } = this.fleet;
    const behind = (one) => Math.max(0, version - one.version);
    const near = (one) => Number(one.probe_gap > NEAR_LIMIT * one.probe_allowed);
    const wanted = byId("fleet-text").value.trim().toLowerCase();
    const found = replicas.filter((one) => `${one.replica_id} ${one.precision} ${one.engine}`.toLowerCase().includes(wanted))
      .sort((a, b) => a.ready - b.ready || behind(b) - behind(a) || near(b) - near(a) || (b.log_ratio_abs_mean ?? 0) - (a.log_ratio_abs_mean ?? 0));
    const sum = (of) => replicas.reduce((total, one) => total + of(one), 0);
    byId("no-fleet").hidden = replicas.length > 0;
    byId("fleet-search").hidden = byId("fleet-table").hidden = !replicas.length;
    byId("fleet-told").textContent = replicas.length ? [
      `${figure(replicas.length)} replicas`, `${figure(sum(({ ready }) => Number(ready)))} accept work`, `${figure(sum((one) => Number(behind(one) > 0)))} serve an older version`,
      sum(near) > 0 && `${figure(sum(near))} near their probe's limit`,
      `${figure(sum(({ running }) => running))} of ${figure(sum(({ slots }) => slots))} slots sample, ${figure(sum(({ waiting }) => waiting))} sequences wait`,
      found.length > MOST_ROWS && `the first ${MOST_ROWS} of ${figure(found.length)} are shown`].filter(Boolean).join(" · ") : "";
    byId("fleet-table").replaceChildren(
      element("thead", {}, element("tr", {}, ...HEAD.map((cell) => element("th", { scope: "col" }, cell)))),
      element("tbody", {}, ...found.slice(0, MOST_ROWS).map((one) => row(one, behind(one)))));
  }
}

function row(one, behind) {
  const cells = [one.ready ? "accepts work" : "does not", behind ? `${figure(one.version)}, ${figure(behind)} behind` : figure(one.version), `${one.precision}, ${one.engine}`,
    `${figure(one.running)} of ${figure(one.slots)}`, figure(one.waiting),
    Number.isFinite(one.probe_gap) ? `${figure(one.probe_gap, 3)} of ${figure(one.probe_allowed, 3)}` : "–", figure(one.tokens), figure(one.log_ratio_abs_mean)];
  return element("tr", {}, element("th", { scope: "row" }, one.replica_id), ...cells.map((cell) => element("td", {}, cell)));
}
