// The steps of one run as the page has them: buckets, which the server sends as they come.
import { ask } from "./api.js";

const NOTHING = { generation: 0, rows: 0, width: 0 };

export class Curves {
  constructor(run, keys) {
    this.run = run;
    this.keys = keys.join(",");
    this.steps = [];
    this.series = {};
    this.seen = NOTHING;
  }

  /** Asks for what is new; of `range` = [first, last], for those steps alone. */
  async update(range) {
    const about = { run: this.run, keys: this.keys };
    if (range) {
      this.take(await ask("stretch", { ...about, first: range[0], last: range[1] }));
      this.seen = NOTHING; // a stretch is nothing to go on from: the next update without a range brings all steps
    } else this.take(await ask("curves", { ...about, ...this.seen }));
  }

  take({ generation, rows, width, begin, steps, series }) {
    this.seen = { generation, rows, width };
    this.steps = this.steps.slice(0, begin).concat(steps);
    const before = begin ? this.series : {};
    this.series = {};
    for (const key of new Set([...Object.keys(before), ...Object.keys(series)])) {
      this.series[key] = {};
      for (const part of width === 1 ? ["mean"] : ["mean", "low", "high"]) {
        this.series[key][part] = filled(before[key]?.[part], begin).concat(series[key]?.[part] ?? filled(null, steps.length));
      }
    }
  }

  keysOf(prefix) {
    return Object.keys(this.series).filter((key) => key.startsWith(prefix));
  }
}

const filled = (values, length) => (values ? values.slice(0, length) : new Array(length).fill(null));
