// What runs, how far it is, and its latest figures.
import { duration, element, figure, moment } from "./words.js";

const byId = (id) => document.getElementById(id);
const TILES = [
  ["reward, last batch", ({ last }) => figure(last.reward_mean)],
  ["alpha", ({ last }) => figure(last.alpha)],
  ["mean |log-ratio|, nats", ({ last }) => figure(last.log_ratio_abs_mean)],
  ["effective sample, raw", ({ last }) => figure(last.ess_ratio_raw)],
  ["staleness, versions", ({ last }) => figure(last.staleness_mean)],
  ["tokens/s", ({ last }) => figure(last.tokens_per_second, 3)],
  ["replicas", ({ last }) => figure(last.replicas)],
];

export function showOverview(state, scores) {
  document.title = `${state.steps} of ${state.total ?? "?"}: ${state.name}, AIS console`;
  byId("name").textContent = state.name;
  byId("status").textContent = state.status;
  byId("status").className = `status ${state.status}`;
  byId("lead").textContent = lead(state);
  byId("reason").hidden = !state.reason;
  byId("reason").textContent = state.reason;
  const total = state.total ?? state.steps;
  byId("progress").max = total || 1;
  byId("progress").value = state.steps;
  byId("pace").textContent = pace(state, total);
  const sources = new Set(scores.map(({ source }) => source).filter((source) => source !== "all"));
  const scoreName = ({ policy, source }) => (sources.size > 1 && source !== "all" ? `${policy}, ${source}` : policy);
  const latest = [...new Map(scores.map((score) => [scoreName(score), score]))];
  const tiles = [
    ...latest.map(([name, { reward, step, interval }]) => [`${name}, step ${step}`, `${reward.toFixed(3)} ± ${interval.toFixed(3)}`]),
    ...TILES.map(([label, value]) => [label, value(state)]).filter(([, value]) => value !== "–"),
  ];
  byId("tiles").replaceChildren(...tiles.map(([label, value]) => element("div", {}, element("dt", {}, label), element("dd", {}, value))));
}

function pace(state, total) {
  const parts = [`step ${state.steps.toLocaleString("en")} of ${total.toLocaleString("en")}`];
  if (state.left) parts.push(`${state.left.toLocaleString("en")} left`);
  if (state.seconds_left) parts.push(`about ${duration(state.seconds_left)}`);
  if (state.last.time && state.status === "training") parts.push(`last step ${duration(Math.max(0, state.now - state.last.time))} ago`);
  if (state.behind) parts.push(`still reading ${(state.behind / 2 ** 20).toFixed(1)} MB of its steps`);
  return parts.join(" · ");
}

function lead({ settings, started }) {
  const precision = settings["rollout.precision.weights"];
  const formats = precision && (precision === "bf16" ? "bf16" : `${precision} weights per ${settings["rollout.precision.granularity"]}, ${settings["rollout.precision.activations"]} activations`);
  return [settings["run.model"], formats && `rollouts in ${formats}`, settings["correction.method"] && `correction ${settings["correction.method"]}`,
    settings["run.groups_per_batch"] && `${settings["run.groups_per_batch"]} prompts × ${settings["run.samples_per_group"]} samples a batch`,
    Number.isInteger(settings["run.max_staleness"]) && `staleness at most ${settings["run.max_staleness"]}`, started && `begun ${moment(started)}`].filter(Boolean).join(" · ");
}
