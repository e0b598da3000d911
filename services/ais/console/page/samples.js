// Prompts and responses: found by text and step, their tokens coloured by log-ratio or by version.
import { ask } from "./api.js";
import { element, figure } from "./words.js";

const PAGE = 20;
const EDGES = [0.01, 0.1, 0.5]; // nats: below the first a token is not coloured
const byId = (id) => document.getElementById(id);

export class Samples {
  constructor() {
    this.list = byId("sample-list");
    this.form = byId("search");
    this.skip = 0;
    this.known = "";
    let waiting;
    this.form.addEventListener("input", (event) => {
      if (event.target.id === "colour") return this.render(this.items);
      clearTimeout(waiting);
      waiting = setTimeout(() => this.search(), 200);
    });
    this.form.addEventListener("submit", (event) => (event.preventDefault(), this.search()));
    byId("more").addEventListener("click", () => this.search(this.items.length));
  }

  /** What the run has now: shown at once when nothing is shown yet, else counted, so that nothing moves under a reader. */
  update(run, version) {
    const known = JSON.stringify([run, version]);
    if (known === this.known) return;
    const first = this.run !== run || !this.items?.length;
    this.known = known;
    this.run = run;
    if (first) this.search();
    else if (!byId("newer")) {
      const button = element("button", { type: "button", id: "newer" }, "Show newer samples");
      button.addEventListener("click", () => this.search());
      byId("found").append(" ", button);
    }
  }

  async search(skip = 0) {
    const asked = (this.asked = (this.asked ?? 0) + 1);
    const answer = await ask("samples", { run: this.run, text: byId("text").value, first: byId("sample-first").value,
      last: byId("sample-last").value, skip, limit: PAGE });
    if (asked !== this.asked) return; // a later search has been begun
    this.items = skip ? [...this.items, ...answer.samples] : answer.samples;
    byId("found").textContent = answer.total ? `${answer.found} of ${answer.total} samples, the newest first` : "No samples are kept yet.";
    byId("more").hidden = this.items.length >= answer.found;
    this.render(this.items);
  }

  render(items = []) {
    this.list.replaceChildren(...items.map((sample) => card(sample, byId("colour").value)));
    showKey(byId("key"), items, byId("colour").value);
  }
}

function card(sample, by) {
  const parts = Object.entries(sample.components ?? {});
  const facts = parts.length > 1 ? parts.map(([name, score]) => `${name} ${figure(score)}`).join(", ") : "";
  const failures = Object.entries(sample.failures ?? {}).map(([name, text]) => element("p", { class: "note" }, `${name}: ${text}`));
  return element("li", {},
    element("h3", {}, `step ${sample.step}`, element("b", { class: "reward" }, `reward ${figure(sample.reward)}`)),
    element("p", { class: "note" }, [facts, `ended by ${sample.finish_reason}`, `version ${sample.version ?? "–"}`, `prompt ${sample.ordinal ?? "–"}`].filter(Boolean).join(" · ")),
    element("pre", { "aria-label": "prompt" }, sample.prompt),
    element("pre", { "aria-label": "response", class: "response" }, ...coloured(sample, by)),
    sample.answer ? element("p", { class: "note" }, "expected ", element("code", {}, sample.answer)) : null,
    ...failures);
}

/** The response as a span for each token that has a colour, and plain text. */
function coloured(sample, by) {
  const lengths = sample.token_lengths;
  if (!lengths || !by) return [sample.response];
  const characters = Array.from(sample.response);
  const versions = (sample.spans ?? []).flatMap(([version, tokens]) => new Array(tokens).fill(version));
  const oldest = Math.min(...versions);
  const parts = [];
  let begin = 0, sampled = 0;
  lengths.forEach((length, at) => {
    const text = characters.slice(begin, begin + length).join("");
    begin += length;
    const ratio = sample.log_ratios[at];
    const version = ratio === null ? undefined : versions[sampled++];
    const title = ratio === null ? "not sampled" : `log-ratio ${figure(ratio)}, version ${version}`;
    const tint = ratio === null ? "context" : by === "ratio" ? ratioClass(ratio) : `version-${(version - oldest) % 4}`;
    parts.push(element("span", { class: tint || null, title }, text));
  });
  return [...parts, characters.slice(begin).join("")];
}

function ratioClass(ratio) {
  const strength = EDGES.filter((edge) => Math.abs(ratio) >= edge).length;
  return strength ? `${ratio < 0 ? "lower" : "higher"}-${strength}` : "";
}

function showKey(place, items, by) {
  place.hidden = by !== "ratio" || !items.some((sample) => sample.token_lengths);
  const entries = [["lower-3", `below −${EDGES[2]}`], ["lower-2", `−${EDGES[2]} to −${EDGES[1]}`], ["lower-1", `−${EDGES[1]} to −${EDGES[0]}`],
    ["higher-1", `${EDGES[0]} to ${EDGES[1]}`], ["higher-2", `${EDGES[1]} to ${EDGES[2]}`], ["higher-3", `above ${EDGES[2]}`]];
  place.replaceChildren("Log-ratio of trainer to rollout, nats: ", ...entries.flatMap(([tint, text]) => [element("span", { class: tint }, text), " "]));
}
