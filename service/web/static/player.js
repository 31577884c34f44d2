// Points in time: they come from the server in bursts and are drawn at the pace of a hand.

const isStill = matchMedia("(prefers-reduced-motion: reduce)");

export class Player {
  /** `draw(points)` is called with those that are due, at most once for each frame. */
  constructor(draw, speed, signal) {
    this.draw = draw;
    this.speed = isStill.matches ? Infinity : speed;
    this.points = [];
    this.drawn = 0;
    this.isComplete = false;
    this.done = new Promise((resolve, reject) => {
      this.resolve = resolve;
      signal.addEventListener("abort", () => reject(signal.reason));
    });
    this.done.catch(() => {});
    this.signal = signal;
  }

  add(points) {
    this.points.push(...points);
    if (this.startedAt !== undefined || !points.length) return;
    this.startedAt = performance.now();
    requestAnimationFrame((now) => this.frame(now));
  }

  /** No more will come; resolves when all are drawn. */
  finish() {
    this.isComplete = true;
    if (this.startedAt === undefined) this.resolve();
    return this.done;
  }

  frame(now) {
    if (this.signal.aborted) return;
    const due = this.speed === Infinity ? Infinity : (this.speed * (now - this.startedAt)) / 1000;
    const from = this.drawn;
    while (this.drawn < this.points.length && this.points[this.drawn].t <= due) this.drawn += 1;
    if (this.drawn > from) this.draw(this.points.slice(from, this.drawn));
    if (this.isComplete && this.drawn === this.points.length) this.resolve();
    else requestAnimationFrame((later) => this.frame(later));
  }
}
