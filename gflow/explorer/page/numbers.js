// Numbers and names as text, with ^{...} and _{...} for what is raised and lowered: `show` sets it so, `spoken` is for
// screen readers, and `raised` for labels in figures.

const MINUS = "\u2212";

function digits(value, count = 3) {
  if (value === null) return "\u2013";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e-3 && size < 1e5) return String(Number(value.toPrecision(count))).replace("-", MINUS);
  const [mantissa, exponent] = value.toExponential(count - 1).split("e");
  const power = `10^{${String(Number(exponent)).replace("-", MINUS)}}`;
  const factor = String(Number(mantissa)).replace("-", MINUS);
  return factor === "1" ? power : `${factor}\u2009\u00d7\u2009${power}`;
}

function percent(share, count = 3) {
  return share === null ? digits(null) : `${digits(100 * share, count)}\u2009%`;
}

// 10^x, for any x, huge ones as 10^(10^...).
function powerOfTen(x) {
  if (x === null) return digits(null);
  if (Math.abs(x) < 4 && x === Math.round(x)) return digits(10 ** x, 4);
  const sign = x < 0 ? MINUS : "";
  const size = Math.abs(x);
  if (size < 1e6) return `10^{${sign}${Number(size.toPrecision(size < 10 ? 3 : 5))}}`;
  return `10^{${sign}10^${Number(Math.log10(size).toPrecision(5))}}`;
}

function spoken(text) {
  return text.replace(/\^\{([^}]*)\}/g, " to the power of $1").replaceAll("10^", "10 to the power of ")
    .replace(/_\{([^}]*)\}/g, " $1").replaceAll(MINUS, "minus ");
}

function show(element, text) {
  element.replaceChildren(...text.split(/([\^_]\{[^}]*\})/).map((part) => {
    if (!/^[\^_]\{/.test(part)) return part;
    const moved = document.createElement(part[0] === "^" ? "sup" : "sub");
    moved.textContent = part.slice(2, -1);
    return moved;
  }));
}

// For text in figures: powers of whole numbers in raised digits.
function raised(text) {
  const high = { "0": "\u2070", "1": "\u00b9", "2": "\u00b2", "3": "\u00b3", "4": "\u2074", "5": "\u2075", "6": "\u2076",
    "7": "\u2077", "8": "\u2078", "9": "\u2079", [MINUS]: "\u207b" };
  return text.replace(/\^\{([^}]*)\}/g, (_, power) => [...power].map((c) => high[c] ?? c).join(""));
}
