// The page: follows a run, or two, and shows what is new.
import { Alerts } from "./alerts.js";
import { ask, Refused } from "./api.js";
import { Curves } from "./curves.js";
import { Fleet } from "./fleet.js";
import { Histogram } from "./histogram.js";
import { showOverview } from "./overview.js";
import { catalogue, plotted, readCatalogue } from "./panels.js";
import { Plot } from "./plot.js";
import { Samples } from "./samples.js";
import { Logs, readSettingsWhenOpened, showEvents, showScores } from "./tables.js";
import { startTheme } from "./theme.js";
import { element } from "./words.js";

const LIVE_MS = 1000, OVER_MS = 5000, RETRY_MS = 3000;
const byId = (id) => document.getElementById(id);

/** One run as the page has it. */
class View {
  constructor(name) {
    this.name = name;
    this.curves = new Curves(name, plotted());
    this.scores = [];
    this.settings = {};
    this.versions = {};
  }

  /** Asks what is new. True where a plot changes by it. */
  async update(range, ranged) {
    const state = await ask("state", { run: this.name });
    const changed = (part) => JSON.stringify(state.versions[part]) !== JSON.stringify(this.versions[part]);
    const steps = ranged || (changed("steps") && (!range || range[1] >= this.state.steps));
    const scores = changed("evaluations");
    if (steps) await this.curves.update(range);
    if (scores) this.scores = (await ask("evaluations", { run: this.name })).scores;
    this.events = changed("events") ? (await ask("events", { run: this.name })).events : null;
    this.fleet = changed("fleet") ? await ask("fleet", { run: this.name }) : null;
    this.state = state;
    this.settings = state.settings;
    this.versions = state.versions;
    this.scored = scores;
    return steps || scores;
  }
}

let view, other, range = null, ranged = false, timer, updating = false, again = false;
const samples = new Samples(), logs = new Logs(), fleet = new Fleet();
const plots = [], histograms = [];

function zoom(first, last) {
  range = last > first ? [first, last] : null;
  ranged = true;
  byId("first").value = range ? first : "";
  byId("last").value = range ? last : "";
  byId("whole").hidden = !range;
  update();
}

const actions = {
  zoom,
  whole: () => range && zoom(0, 0),
  pointed: (step) => histograms.forEach((one) => one.read(step)),
};

function build() {
  for (const { name: id, title, plots: panels } of catalogue.sections) {
    const grid = element("div", { class: "plots" });
    for (const panel of panels) {
      const made = panel.form === "bars" ? new Histogram(panel) : new Plot(panel, actions);
      (panel.form === "bars" ? histograms : plots).push(made);
      grid.append(made.figure);
    }
    byId("plots").append(element("section", { id, "aria-labelledby": `${id}-title` }, element("h2", { id: `${id}-title` }, title), grid));
  }
}

/** One round of questions; a round that is wanted meanwhile follows at once. */
async function update() {
  if (updating) {
    again = true;
    return;
  }
  clearTimeout(timer);
  updating = true;
  let next = LIVE_MS;
  try {
    next = await round();
    byId("trouble").hidden = true;
  } catch (error) {
    byId("trouble").textContent = error instanceof Refused ? error.message : `The console does not answer: ${error.message} It is asked again.`;
    byId("trouble").hidden = false;
    next = RETRY_MS;
  }
  updating = false;
  timer = setTimeout(update, again ? 0 : next);
  again = false;
}

const nextFrame = () => (document.hidden ? null : new Promise(requestAnimationFrame));

async function round() {
  const shown = [view, other].filter(Boolean), [asked, wasRanged] = [range, ranged];
  ranged = false;
  const changes = [];
  try {
    for (const one of shown) changes.push(await one.update(asked, wasRanged || !one.state));
  } catch (error) {
    ranged = true; // the next round asks for what this one was to show
    throw error;
  }
  if (shown[0] !== view || shown[1] !== (other ?? undefined)) return 0; // another run was chosen meanwhile
  showOverview(view.state, view.scores);
  if (changes.some(Boolean)) {
    for (const plot of plots) if (plot.show(shown, asked)) await nextFrame(); // all in one would hold the page up
    histograms.forEach((one) => one.show(shown));
  }
  if (view.scored) showScores(view.scores);
  if (view.events) showEvents(view.events);
  if (view.fleet) fleet.show(view.fleet);
  fleet.age(view.state.now);
  samples.update(view.name, view.versions.samples);
  document.documentElement.dataset.rows = view.versions.steps[1];
  if (shown.some(({ state }) => state.behind)) return 0;
  return shown.some(({ state }) => ["training", "evaluating", "unknown"].includes(state.status)) ? LIVE_MS : OVER_MS;
}

function choose() {
  view = new View(byId("run").value);
  other = byId("other").value && byId("other").value !== view.name ? new View(byId("other").value) : undefined;
  byId("settings").open = false;
  showScores([]);
  showEvents([]);
  fleet.show({ replicas: [] });
  logs.open(view.name).catch(() => {});
  update();
}

async function start() {
  startTheme(byId("theme"));
  await readCatalogue();
  build();
  const known = await ask("runs");
  const options = () => known.runs.map((name) => element("option", {}, name));
  byId("run").replaceChildren(...options());
  byId("other").replaceChildren(element("option", { value: "" }, "none"), ...options());
  byId("run").value = known.run;
  byId("other").value = known.other ?? "";
  for (const id of ["run", "other"]) byId(id).addEventListener("change", choose);
  byId("range").addEventListener("submit", (event) => {
    event.preventDefault();
    zoom(Number(byId("first").value) || 0, Number(byId("last").value) || view.state?.steps || 0);
  });
  byId("whole").addEventListener("click", actions.whole);
  readSettingsWhenOpened(() => view.name);
  document.addEventListener("visibilitychange", () => document.hidden || update());
  choose();
  new Alerts().follow();
}

start().catch((error) => {
  byId("trouble").textContent = error.message;
  byId("trouble").hidden = false;
});
