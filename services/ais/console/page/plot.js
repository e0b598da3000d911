// One plot: a figure with title, legend that shows values, canvas and caption.
import { colour, onTheme, seriesColour } from "./theme.js";
import { element, figure } from "./words.js";
import { catalogue, seriesOf } from "./panels.js";

const HEIGHT = 210;
const FONT = "11px system-ui, sans-serif";
const FEW = 30; // so few points of a line are marked
const MANY = 400; // a line of more is one pixel wide: the joints of a wider one take a browser without a GPU 20 ms

export class Plot {
  constructor(panel, actions) {
    this.panel = panel;
    this.stacked = panel.form === "areas";
    this.actions = actions;
    this.legend = element("ul", { class: "legend" });
    this.box = element("div", { class: "canvas", tabindex: 0, role: "img" });
    this.figure = element("figure", { class: panel.wide ? "wide" : null, hidden: true },
      element("h3", {}, panel.title + (panel.unit ? `, ${panel.unit}` : "")), this.legend, this.box, element("figcaption", {}, panel.caption));
    this.box.addEventListener("keydown", (event) => this.onKey(event));
    this.box.addEventListener("blur", () => this.uplot?.setCursor({ left: -10, top: -10 }));
    this.visible = false;
    new IntersectionObserver(([entry]) => {
      this.visible = entry.isIntersecting;
      if (this.visible && this.waiting) this.draw();
    }, { rootMargin: "200px" }).observe(this.figure);
    new ResizeObserver(() => this.fit()).observe(this.box);
    onTheme(() => this.uplot?.redraw(false));
  }

  /** Shows `runs`: the curves, scores and settings of one run or two. Off the screen it only remembers them. True: it was drawn. */
  show(runs, range) {
    this.waiting = { runs, range };
    const lines = runs.flatMap((run, place) => this.linesOf(run, place));
    this.figure.hidden = !lines.length;
    const drawn = lines.length > 0 && (this.visible || !this.uplot);
    if (drawn) this.draw();
    return drawn;
  }

  linesOf(run, place) {
    const named = (label) => (place ? `${label} (${run.name})` : label);
    const found = seriesOf(this.panel, run.curves).map(([key, label]) => ({ key, label: named(label), place, run: run.name, x: run.curves.steps, ...this.values(run.curves.series[key]) }));
    if (!this.panel.scores) return found;
    const kinds = groupBy(run.scores, scoreName);
    for (const [label, scores] of kinds) {
      const last = [...new Map(scores.map((one) => [one.step, one])).values()];
      const at = (of) => last.map(of);
      found.push({ key: label, label: named(label), place, run: run.name, points: true, x: at((one) => one.step), mean: at((one) => one.reward),
        low: at((one) => one.reward - one.interval), high: at((one) => one.reward + one.interval) });
    }
    return found;
  }

  values(series) {
    return this.panel.absent_is_zero ? Object.fromEntries(Object.entries(series).map(([part, values]) => [part, values.map((value) => value ?? 0)])) : series;
  }

  draw() {
    const { runs, range } = this.waiting;
    this.waiting = null;
    let lines = runs.flatMap((run, place) => this.linesOf(run, place));
    if (!lines.length) return;
    if (range) lines = lines.map((line) => (line.points ? within(line, range) : line));
    if (this.stacked) lines = stacked(lines.filter((line) => !line.place));
    const drawn = lines.flatMap((line) => [line.mean, line.low ?? [], line.high ?? []].map((values) => [line.x, values.length ? values : line.x.map(() => null)]));
    const data = uPlot.join(drawn);
    this.thresholds = this.thresholdsOf(runs[0]);
    const shape = JSON.stringify(lines.map(({ label, points, place, x }) => [label, points, place, x.length <= FEW, x.length > MANY]));
    this.lines = lines;
    this.data = data;
    if (shape === this.shape) this.uplot.setData(data);
    else this.build(shape, data);
    this.read(this.uplot.cursor.idx ?? null);
  }

  build(shape, data) {
    this.shape = shape;
    this.uplot?.destroy();
    const index = new Map();
    const places = this.lines.map(({ key }) => index.get(key) ?? (index.set(key, index.size), index.size - 1));
    this.colours = places;
    const series = this.lines.flatMap((line, at) => this.seriesOf(line, at));
    const bands = this.lines.map((line, at) => (this.stacked
      ? { series: [3 * at + 1, at ? 3 * at - 2 : 3 * at + 2], fill: () => seriesColour(places[at]) + "b0" }
      : { series: [3 * at + 3, 3 * at + 2], fill: () => (line.points ? "transparent" : seriesColour(places[at]) + "2e") }));
    const axis = (more) => ({ stroke: () => colour("ink-soft"), font: FONT, grid: { stroke: () => colour("grid"), width: 1 }, ticks: { stroke: () => colour("grid"), width: 1, size: 4 }, ...more });
    this.uplot = new uPlot({
      width: this.width(), height: HEIGHT, series: [{}, ...series], bands, legend: { show: false },
      scales: { x: { time: false, range: (_, low, high) => (low === high ? [low - 1, high + 1] : [low, high]) }, y: { range: (_, low, high) => this.range(low, high) } },
      axes: [axis({ incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6], size: 28 }),
        axis({ values: (_, ticks) => ticks.map((tick) => figure(tick)), size: 58 })],
      cursor: { sync: { key: "steps", setSeries: false, scales: ["x", null] }, drag: { x: true, y: false, setScale: false }, y: false,
        points: { size: 6 }, bind: { dblclick: () => () => this.actions.whole() } },
      hooks: {
        setCursor: [(plot) => this.pointed(plot.cursor.idx ?? null)],
        setSelect: [(plot) => this.select(plot)],
        draw: [(plot) => this.overdraw(plot)],
      },
    }, data, this.box);
  }

  seriesOf(line, at) {
    const stroke = () => seriesColour(this.colours[at]);
    const hidden = { stroke: "transparent", width: 0, points: { show: false } };
    const thin = line.points || this.stacked || line.x.length > MANY;
    return [{ label: line.label, stroke, width: thin ? 1 : 1.6, dash: line.place ? [5, 4] : undefined,
      points: { show: line.points || line.x.length <= FEW, size: line.points ? 7 : 4, stroke, fill: stroke } }, hidden, hidden];
  }

  thresholdsOf({ settings }) {
    return this.panel.thresholds.filter(({ setting }) => Number.isFinite(settings[setting]))
      .map(({ setting, label, more }) => ({ value: settings[setting] + more, label }));
  }

  range(low, high) {
    if (low === null || high === null) return [0, 1];
    if (this.panel.share && low >= 0 && high <= 1) return [0, 1.02];
    const near = this.thresholds.map(({ value }) => value).filter((value) => value <= catalogue.near * high);
    const least = this.panel.from_zero && low >= 0 ? 0 : Math.min(low, ...near);
    const most = Math.max(high, ...near);
    const room = 0.06 * (most - least) || Math.abs(most) || 1;
    return [least === 0 ? 0 : least - room, most + room];
  }

  /** Error bars and thresholds. */
  overdraw(plot) {
    const { ctx } = plot;
    const { left, top, width, height } = plot.bbox;
    ctx.save();
    ctx.beginPath();
    ctx.rect(left, top, width, height);
    ctx.clip();
    this.lines.forEach((line, at) => {
      if (!line.points) return;
      ctx.strokeStyle = seriesColour(this.colours[at]);
      ctx.lineWidth = devicePixelRatio;
      line.x.forEach((step, place) => {
        const x = plot.valToPos(step, "x", true);
        ctx.beginPath();
        ctx.moveTo(x, plot.valToPos(line.low[place], "y", true));
        ctx.lineTo(x, plot.valToPos(line.high[place], "y", true));
        ctx.stroke();
      });
    });
    ctx.strokeStyle = colour("bad");
    ctx.setLineDash([6 * devicePixelRatio, 4 * devicePixelRatio]);
    for (const { value } of this.thresholds) {
      const y = plot.valToPos(value, "y", true);
      ctx.beginPath();
      ctx.moveTo(left, y);
      ctx.lineTo(left + width, y);
      ctx.stroke();
    }
    ctx.restore();
  }

  /** The legend with the values at a place of the data; null: the last ones. */
  read(index) {
    const value = (line) => figure(this.at(line, line.own ?? line.mean, index));
    const entries = this.lines.filter((line) => !this.lines.some((first) => line.place && !first.place && first.key === line.key)).map((line) => {
      const swatch = element("span", { class: line.place ? "swatch dashed" : "swatch" });
      swatch.style.setProperty("--swatch", `var(--series-${(this.colours[this.lines.indexOf(line)] % 10) + 1})`);
      const beside = line.place ? null : this.lines.find((other) => other.place && other.key === line.key);
      return element("li", {}, swatch, `${line.label} `, element("b", {}, value(line)), beside ? element("span", { class: "beside" }, ` / ${value(beside)}`) : null);
    });
    const other = this.lines.find(({ place }) => place);
    if (other) entries.push(element("li", {}, element("span", { class: "swatch dashed" }), other.run));
    for (const { value, label } of this.thresholds) entries.push(element("li", {}, element("span", { class: "swatch threshold" }), `${label} `, element("b", {}, figure(value))));
    if (index !== null && this.data[0][index] !== undefined) entries.unshift(element("li", {}, `step ${figure(this.data[0][index])}`));
    this.legend.replaceChildren(...entries);
    this.box.setAttribute("aria-label", `${this.panel.title}. ${entries.map((entry) => entry.textContent).join("; ")}. Arrow keys read values.`);
  }

  /** The pointer, or an arrow key, is at a place of the data; null: nowhere. All plots follow; these are on the screen. */
  pointed(index) {
    if (this.visible) this.read(index);
    this.actions.pointed(index === null ? null : this.data[0][index]);
  }

  at(line, values, index) {
    if (index === null) return values.findLast((value) => value !== null);
    const place = line.x.indexOf(this.data[0][index]);
    return place < 0 ? null : values[place];
  }

  onKey(event) {
    const move = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20, Home: -Infinity, End: Infinity }[event.key];
    if (!move || !this.uplot) return;
    event.preventDefault();
    const last = this.data[0].length - 1;
    const now = this.uplot.cursor.idx ?? last;
    const index = Math.max(0, Math.min(last, Number.isFinite(move) ? now + move : move < 0 ? 0 : last));
    this.uplot.setCursor({ left: this.uplot.valToPos(this.data[0][index], "x"), top: HEIGHT / 3 });
  }

  select(plot) {
    if (plot.select.width < 4) return;
    const first = plot.posToVal(plot.select.left, "x");
    const last = plot.posToVal(plot.select.left + plot.select.width, "x");
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    this.actions.zoom(Math.max(0, Math.floor(first)), Math.ceil(last));
  }

  width() {
    return Math.max(200, Math.floor(this.box.clientWidth));
  }

  fit() {
    if (this.uplot && this.uplot.width !== this.width()) this.uplot.setSize({ width: this.width(), height: HEIGHT });
  }
}

const scoreName = ({ policy, source, when }) => `${policy}, ${when === "after training" ? "held out" : `held out while training${source === "all" ? "" : `, ${source}`}`}`;

function groupBy(items, key) {
  const groups = new Map();
  for (const item of items) groups.set(key(item), [...(groups.get(key(item)) ?? []), item]);
  return groups;
}

function within(line, [first, last]) {
  const kept = line.x.map((step, at) => at).filter((at) => line.x[at] >= first && line.x[at] <= last);
  const pick = (values) => kept.map((at) => values[at]);
  return { ...line, x: pick(line.x), mean: pick(line.mean), low: pick(line.low), high: pick(line.high) };
}

function stacked(lines) {
  let below = lines[0]?.x.map(() => 0);
  return lines.map((line) => {
    below = below.map((sum, at) => sum + (line.mean[at] ?? 0));
    return { ...line, own: line.mean, mean: below, low: line.x.map(() => 0), high: undefined };
  });
}
