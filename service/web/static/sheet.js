// A sheet of paper in millimetres: strokes are lines of an SVG, cut also where the network's segments end.

const SVG = "http://www.w3.org/2000/svg";
const ROOM_MM = 12; // a hand that leaves the sheet gets a larger one, with room ahead
const SEGMENT_COLOURS = 3;

function drawn(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

export class Sheet {
  constructor(svg) {
    this.svg = svg;
    this.lay({ left: 0, top: 0, right: 160, bottom: 40 }, 0.4);
  }

  /** Lay out a blank sheet; `penMm` is the width of its pen. */
  lay(box, penMm) {
    this.box = { ...box };
    this.last = null;
    this.ink = drawn("g", { "stroke-width": penMm });
    this.pen = drawn("circle", { class: "pen", r: 1.1 });
    this.svg.replaceChildren(this.ink, this.pen);
    this.fit();
  }

  /** Let the pen go to a point: { x, y, lifts, segments: one index for each layer that ends some }. */
  add(point) {
    const { x, y, lifts, segments } = point;
    const isSame = this.last && !this.last.lifts && segments.every((segment, layer) => segment === this.last.segments[layer]);
    if (!isSame) {
      const from = this.last && !this.last.lifts ? this.last : point;
      const names = segments.map((segment, layer) => `s${layer + 1}-${segment % SEGMENT_COLOURS}`);
      this.line = drawn("polyline", { points: `${from.x},${from.y}`, class: names.join(" ") });
      this.ink.append(this.line);
    }
    this.line.setAttribute("points", `${this.line.getAttribute("points")} ${x},${y}`);
    this.last = point;
    this.pen.setAttribute("cx", x);
    this.pen.setAttribute("cy", y);
    this.pen.classList.toggle("lifted", lifts);
    this.hold(x, y);
  }

  /** Make the sheet larger where a point lies off it. */
  hold(x, y) {
    const { box } = this;
    if (x >= box.left && x <= box.right && y >= box.top && y <= box.bottom) return;
    if (x < box.left) box.left = x - 1;
    if (x > box.right) box.right = x + 1;
    if (y < box.top) box.top = y - 1;
    if (y > box.bottom) box.bottom = y + ROOM_MM;
    this.fit();
  }

  fit() {
    const { left, top, right, bottom } = this.box;
    this.svg.setAttribute("viewBox", `${left} ${top} ${right - left} ${bottom - top}`);
  }
}
