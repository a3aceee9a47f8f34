// What the server's short words read as for people.

const UNITS = { kg: "kg", m: "m", kmh: "km/h", cm: "cm" };
const ENVIRONMENTS = {
  underwater: "under water",
  water_surface: "on the water",
  airborne: "in the air",
  indoor_flat: "indoors, flat floor",
  indoor_cluttered: "indoors, cluttered",
  paved: "paved ground",
  rough: "rough ground",
  rubble: "rubble",
  confined: "confined space",
  none: "not read",
};

/** "water_surface" reads "on the water". */
export const place = (name) => ENVIRONMENTS[name] ?? name.replaceAll("_", " ");

/** ("load_kg", 8) reads "load 8 kg"; ("stairs", true) reads "stairs". */
export function limit(name, value) {
  if (value === true) return name.replaceAll("_", " ");
  const parts = name.split("_");
  const unit = UNITS[parts.at(-1)];
  if (!unit) return `${parts.join(" ")} ${value}`;
  return `${parts.slice(0, -1).join(" ")} ${value} ${unit}`;
}

/** 0.954 reads "95 %"; what is not certain is never rounded to 0 or 100. */
export function percent(share) {
  const rounded = Math.round(100 * share);
  if (rounded === 100 && share < 1) return "over 99 %";
  if (rounded === 0 && share > 0) return "under 1 %";
  return `${rounded} %`;
}

/** [a, b, c] reads "a, b and c". */
export function listed(names) {
  return names.length < 2 ? (names[0] ?? "") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
}

/** 7.5 reads "7.5 min", 90 reads "1 h 30 min". */
export function minutes(count) {
  if (count < 60) return `${Number(count.toFixed(1))} min`;
  const whole = Math.round(count);
  return `${Math.floor(whole / 60)} h${whole % 60 ? ` ${whole % 60} min` : ""}`;
}

/** 11.23 reads "11 ms", 1400 reads "1.4 s". */
export function duration(ms) {
  if (ms >= 1000) return `${(ms / 1000).toFixed(1)} s`;
  return ms < 10 ? `${ms.toFixed(1)} ms` : `${Math.round(ms)} ms`;
}
