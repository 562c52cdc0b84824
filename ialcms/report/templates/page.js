"use strict";

// One element plays every sound: browsers limit how many a page may have, and only one is to be heard at a time.
// The sounds of an example are aligned, so they share one position: another sound continues there.
const player = document.getElementById("player");
const announcement = document.getElementById("status");
const positions = new Map(); // example -> seconds
// The slider's own step is as fine as a mouse points, too fine for keys.
const KEY_SECONDS = 0.5;
const keySteps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 };
let current = null; // the sound (figure) that the player holds
let pendingSeek = null; // seconds to go to as soon as the player knows the sound
let nextFrame = 0;

const exampleOf = (sound) => sound.closest(".example");
const positionOf = (example) => positions.get(example) ?? 0;

function showPosition(example, seconds) {
  const length = Number(example.dataset.seconds);
  const now = seconds.toFixed(1);
  positions.set(example, seconds);
  example.style.setProperty("--position", Math.min(seconds / length, 1));
  for (const sound of example.querySelectorAll(".sound")) {
    const slider = sound.querySelector("input");
    const time = `${now} / ${length.toFixed(1)} s`;
    const shown = sound.querySelector(".time");
    slider.value = seconds;
    if (shown.textContent !== time) {
      shown.textContent = time;
      slider.setAttribute("aria-valuetext", `${now} of ${length.toFixed(1)} seconds`);
    }
  }
}

function showPlaying(sound, isPlaying) {
  const button = sound.querySelector(".play");
  sound.classList.toggle("playing", isPlaying);
  button.setAttribute("aria-label", `${isPlaying ? "Pause" : "Play"} ${button.dataset.what}`);
}

function showFailure(sound) {
  showPlaying(sound, false);
  sound.querySelector(".time").textContent = "This browser cannot play the sound.";
}

function play(sound) {
  if (current !== sound) {
    if (current) showPlaying(current, false);
    current = sound;
    pendingSeek = positionOf(exampleOf(sound));
    player.src = sound.dataset.sound;
  }
  showPlaying(sound, true);
  player.play().catch((error) => {
    // Another sound was chosen before this one could start: that is no failure.
    if (error.name !== "AbortError" && sound === current) showFailure(sound);
  });
}

function seek(sound, seconds) {
  const example = exampleOf(sound);
  showPosition(example, seconds);
  if (!current || exampleOf(current) !== example) return;
  if (pendingSeek === null) player.currentTime = seconds;
  else pendingSeek = seconds;
}

function followPlayer() {
  cancelAnimationFrame(nextFrame);
  if (player.paused) return;
  if (pendingSeek === null && !player.seeking) showPosition(exampleOf(current), player.currentTime);
  nextFrame = requestAnimationFrame(followPlayer);
}

player.addEventListener("loadedmetadata", () => {
  if (pendingSeek) player.currentTime = pendingSeek;
  pendingSeek = null;
});
player.addEventListener("playing", followPlayer);
player.addEventListener("pause", () => {
  if (player.paused && current) showPlaying(current, false); // by a media key, say
});
player.addEventListener("ended", () => {
  showPlaying(current, false);
  showPosition(exampleOf(current), 0);
});

for (const sound of document.querySelectorAll(".sound")) {
  sound.querySelector(".play").addEventListener("click", () => {
    if (sound === current && !player.paused) player.pause();
    else play(sound);
  });
  const slider = sound.querySelector("input");
  slider.addEventListener("input", () => seek(sound, Number(slider.value)));
  slider.addEventListener("keydown", (event) => {
    const steps = keySteps[event.key];
    if (!steps || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    seek(sound, Math.min(Math.max(Number(slider.value) + steps * KEY_SECONDS, 0), Number(slider.max)));
  });
}

// A link to a folded example unfolds it; printing shows all.
const unfold = (example) => example?.querySelector("details")?.setAttribute("open", "");
const unfoldTarget = () => unfold(document.querySelector(`.example[id="${CSS.escape(location.hash.slice(1))}"]`));
for (const link of document.querySelectorAll(".links a")) {
  link.addEventListener("click", () => unfold(document.getElementById(link.hash.slice(1))));
}
addEventListener("hashchange", unfoldTarget);
addEventListener("beforeprint", () => document.querySelectorAll(".example").forEach(unfold));
unfoldTarget();

for (const toggle of document.querySelectorAll(".toggle")) {
  const heat = document.getElementById(toggle.getAttribute("aria-controls"));
  toggle.addEventListener("click", () => {
    heat.hidden = !heat.hidden;
    toggle.setAttribute("aria-pressed", String(!heat.hidden));
  });
}

// Sorting: numbers best first, names from A to Z; a second click reverses the order. Gaps stay at the end.
const compareTexts = new Intl.Collator(undefined, { numeric: true }).compare;

function sortTable(head) {
  const body = head.closest("table").tBodies[0];
  const isNumber = head.classList.contains("number");
  const before = head.getAttribute("aria-sort");
  const order = before === "none" ? (isNumber ? "descending" : "ascending") : before === "ascending" ? "descending" : "ascending";
  const sign = order === "ascending" ? 1 : -1;
  const rows = Array.from(body.rows, (row) => ({ row, cell: row.cells[head.cellIndex] }));
  rows.sort((a, b) => {
    const gaps = a.cell.classList.contains("missing") - b.cell.classList.contains("missing");
    if (gaps) return gaps;
    if (isNumber) {
      const [x, y] = [Number(a.cell.dataset.value), Number(b.cell.dataset.value)];
      return sign * ((x > y) - (x < y)); // the difference of two infinities is no number
    }
    return sign * compareTexts(a.cell.textContent, b.cell.textContent);
  });
  for (const other of head.parentElement.cells) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", order);
  body.append(...rows.map(({ row }) => row));
  announcement.textContent = `Sorted by ${head.textContent}, ${order}`;
}

for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => sortTable(button.closest("th")));
}
