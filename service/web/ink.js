// Ink on a canvas: points come in millimetres, are laid out in lines as wide as the sheet, and each is drawn once.
// What is finished stays as it is; everything is drawn again only when the sheet changes (its size or its colours).

const MARGIN = 18;
const LINE_HEIGHT = 92;
const MIN_HEIGHT = 240;
const ROOM = 60;
const SCALE = 5.1; // pixels to a millimetre
const PEN_WIDTH = 1.9;
const DOT_RADIUS = 2.6;
const POINTS_PER_SECOND = 320;

/** Place points on lines: after a lift of the pen beyond the right margin, the next stroke begins a new line. */
export class Layout {
  constructor(width) {
    this.width = width;
    this.line = 0;
    this.left = null;
    this.base = 0;
    this.wrap = false;
  }

  /** Return where a point of the stream lies on the sheet. */
  place(x, y, lifts) {
    if (this.left === null || this.wrap) {
      if (this.left !== null) this.line += 1;
      this.left = x;
      this.base = y;
      this.wrap = false;
    }
    const placed = {
      x: MARGIN + (x - this.left) * SCALE,
      y: LINE_HEIGHT * (this.line + 0.6) + (y - this.base) * SCALE,
    };
    this.wrap = lifts && placed.x > this.width - 3 * MARGIN;
    return placed;
  }
}

/** A sheet of paper: takes points as they come, draws them at its own pace. */
export class Sheet {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.showBoundaries = false;
    this.isPaced = true;
    this.onIdle = () => {};
    this.clear();
    new ResizeObserver(() => this.redraw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
  }

  clear() {
    this.points = [];
    this.drawn = 0;
    this.isComplete = false;
    this.startedAt = null;
    this.redraw();
  }

  /** Take the columns of one event. */
  add({ x, y, pen, z }) {
    for (let index = 0; index < x.length; index += 1) {
      const level = z.reduce((sum, layer) => sum + layer[index], 0);
      this.points.push({ x: x[index], y: y[index], lifts: pen[index] === 1, level });
    }
    if (this.startedAt === null) {
      this.startedAt = performance.now();
      requestAnimationFrame((now) => this.frame(now));
    }
  }

  /** No more points will come. */
  complete() {
    this.isComplete = true;
    if (this.startedAt === null) this.onIdle();
  }

  frame(now) {
    const isInstant = !this.isPaced || matchMedia("(prefers-reduced-motion: reduce)").matches;
    const due = isInstant ? Infinity : ((now - this.startedAt) * POINTS_PER_SECOND) / 1000;
    while (this.drawn < this.points.length && this.drawn <= due) this.drawNext();
    if (this.drawn < this.points.length || !this.isComplete) {
      requestAnimationFrame((later) => this.frame(later));
    } else {
      this.startedAt = null;
      this.onIdle();
    }
  }

  /** Draw what has been drawn so far again, on a sheet of the right size. */
  redraw() {
    const upTo = this.drawn;
    const ratio = devicePixelRatio || 1;
    const width = this.canvas.clientWidth;
    this.layout = new Layout(width);
    let [top, bottom] = [MARGIN, MIN_HEIGHT - MARGIN];
    for (const point of this.points.slice(0, upTo)) {
      point.at = this.layout.place(point.x, point.y, point.lifts);
      top = Math.min(top, point.at.y);
      bottom = Math.max(bottom, point.at.y);
    }
    // A hand that drifts off the sheet gets a larger sheet, with room ahead so that this stays rare.
    this.top = top < MARGIN ? top - ROOM : 0;
    this.bottom = bottom > MIN_HEIGHT - MARGIN ? bottom + ROOM : MIN_HEIGHT;
    const height = this.bottom - this.top;
    this.canvas.style.height = `${height}px`;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.context.setTransform(ratio, 0, 0, ratio, 0, -this.top * ratio);
    const style = getComputedStyle(this.canvas);
    this.colours = ["--ink", "--z1-dot", "--z2-dot"].map((name) => style.getPropertyValue(name).trim());
    for (let index = 0; index < upTo; index += 1) this.stroke(index);
  }

  drawNext() {
    const index = this.drawn;
    const point = this.points[index];
    point.at = this.layout.place(point.x, point.y, point.lifts);
    this.drawn += 1;
    if (point.at.y < this.top + PEN_WIDTH || point.at.y > this.bottom - PEN_WIDTH) this.redraw();
    else this.stroke(index);
  }

  /** Draw the piece of a stroke that ends in a point. */
  stroke(index) {
    const { context } = this;
    const point = this.points[index];
    const before = this.points[index - 1];
    const from = before && !before.lifts ? before.at : point.at;
    context.strokeStyle = this.colours[0];
    context.lineWidth = PEN_WIDTH;
    context.lineCap = "round";
    context.lineJoin = "round";
    context.beginPath();
    context.moveTo(from.x, from.y);
    context.lineTo(point.at.x, point.at.y);
    context.stroke();
    if (this.showBoundaries && point.level) {
      context.fillStyle = this.colours[Math.min(point.level, 2)];
      context.beginPath();
      context.arc(point.at.x, point.at.y, DOT_RADIUS + (point.level > 1 ? 0.8 : 0), 0, 2 * Math.PI);
      context.fill();
    }
  }
}
