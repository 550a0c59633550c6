"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = id => document.getElementById(id);
const make = (tag, properties) => Object.assign(document.createElement(tag), properties);
const plural = (n, one, many) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

// One object a pair; `place` is its card, empty until it comes near the window.
const clips = data.clips.map(([name, part, sound, doubts, preview, poster, mosaic, moment, moved]) =>
  ({name, part, sound, doubts, preview, poster, mosaic, moment, moved, full: part ? `${name} (${part})` : name}));
const pictures = data.pictures.map(([name, crop, doubts, source]) =>
  ({name, crop, doubts, source, full: crop ? `${name} (${crop})` : name}));
const pairs = data.pairs.map(([clip, picture, variant, choices, sound, film, record, reason]) => {
  const {preview, poster, moment} = clips[clip], {source} = pictures[picture];
  const doubts = [
    ...pictures[picture].doubts.map(text => ["source", text]), ...clips[clip].doubts.map(text => ["driving", text]),
  ];
  const words = [pictures[picture].full, clips[clip].full, variant, choices].join(" ").toLowerCase();
  return {clip, picture, driving: clips[clip].full, preview, poster, moment, image: pictures[picture].full, source,
    variant, choices, sound, film, record, reason, doubts, words, place: null};
});

// ---- the chosen: pairs with a star, by the address of their film; kept in this browser for this folder's pages ----

const KEPT = `talkies chosen ${new URL(".", location.href).href}`;
function kept() {
  try { return new Set(JSON.parse(localStorage.getItem(KEPT)) || []); } catch { return new Set(); }
}
let chosen = kept(), onStage = null;  // onStage: the pair that is shown large
const isChosen = pair => Boolean(pair.film) && chosen.has(pair.film);

function choose(pair) {
  if (!chosen.delete(pair.film)) chosen.add(pair.film);
  try { localStorage.setItem(KEPT, JSON.stringify([...chosen])); } catch { /* until the page is closed, then */ }
  showChosen();
}
function star(button, pair, words) {
  button.setAttribute("aria-pressed", isChosen(pair));
  button.setAttribute("aria-label", `Choose ${pair.title}`);
  if (words) button.textContent = ` ${words}`;
}
function showChosen() {
  for (const pair of pairs) {
    const button = pair.place.querySelector(".star");
    if (button) star(button, pair);
  }
  if (onStage) star(stage.querySelector(".star"), onStage, "Choose");
  countChoices();
}

// ---- films in step: the talkie leads, with sound, and the silent driving video follows, until the signal ----

const SLACK = 0.12;  // seconds they may be apart before the follower jumps; a video frame lasts 0.04

function inStep(leader, follower, signal) {
  follower.muted = true;
  const follow = () => {
    const end = follower.duration || Infinity, to = Math.min(leader.currentTime, end);
    const behind = to - follower.currentTime;
    if (Math.abs(behind) > (leader.paused ? 0.001 : SLACK)) follower.currentTime = to;
    // Smaller differences are made up by a slightly other speed.
    follower.playbackRate = leader.playbackRate * (leader.paused ? 1 : 1 + Math.max(-0.1, Math.min(0.1, behind * 2)));
    const moving = !leader.paused && !leader.ended && leader.readyState > 2 && to < end;
    if (moving && follower.paused) follower.play().catch(() => {});
    if (!moving && !follower.paused) follower.pause();
  };
  for (const event of ["play", "playing", "pause", "seeking", "seeked", "timeupdate", "ratechange", "waiting", "ended"])
    leader.addEventListener(event, follow, {signal});
  follower.addEventListener("canplay", follow, {signal});
}

let playing = null;  // the one video that plays
function playAlone(video) {
  if (playing && playing !== video) playing.pause();
  playing = video;
  video.play().catch(() => {});
}

// ---- playing: silently under the pointer or focus, with sound after a click ----

// With reduced motion, films play only on a click.
const still = matchMedia("(prefers-reduced-motion: reduce)");

// Let `button` play the video of `ready`, which is made when first needed. The classes of `shell` show its state.
// sound: whether it has any. It rests at `moment` (seconds) and plays from its start.
function player(button, shell, ready, {sound, moment = 0}) {
  let heard = false, resting = true, timer = 0;
  shell.classList.toggle("sounds", Boolean(sound));
  const wanted = () => {
    const video = ready();
    if (resting) video.currentTime = 0;
    resting = false;
    video.onplay = () => shell.classList.add("playing");
    video.onpause = () => { shell.classList.remove("playing", "silent"); heard = false; };
    return video;
  };
  const glance = () => {
    if (still.matches || heard || byId("stage").open) return;
    // Nothing interrupts a film with sound, and nothing starts under a passing pointer.
    timer = setTimeout(() => {
      if (playing && !playing.paused && !playing.muted) return;
      const video = wanted();
      video.muted = true;
      shell.classList.add("silent");
      playAlone(video);
    }, 150);
  };
  const leave = () => {
    clearTimeout(timer);
    if (!heard && shell.classList.contains("silent")) {
      const video = ready();
      video.pause();
      video.currentTime = moment;
      resting = true;
    }
  };
  button.onclick = () => {
    clearTimeout(timer);
    const video = wanted();
    if (heard && !video.paused) return video.pause();
    heard = true;
    video.muted = false;
    shell.classList.remove("silent");
    playAlone(video);
  };
  button.onpointerenter = event => { if (event.pointerType === "mouse") glance(); };
  button.onfocus = () => { if (button.matches(":focus-visible")) glance(); };
  button.onpointerleave = button.onblur = leave;
}

// ---- cards ----

let groups = [], grouped = "clip";

function fill(pair) {
  const place = pair.place;
  if (place.firstChild) return;
  place.append(byId("card-template").content.cloneNode(true));
  const find = selector => place.querySelector(selector);
  caption(pair);
  warn(pair, find(".doubts"));
  if (pair.source) find(".source").prepend(make("img", {src: pair.source, alt: `Source image ${pair.image}`, decoding: "async"}));
  if (pair.poster) find(".driving").prepend(make("img", {src: pair.poster, alt: `Driving video ${pair.driving}`, decoding: "async"}));
  const record = find(".record");
  pair.record ? record.href = pair.record : record.remove();
  record.setAttribute("aria-label", `Facts about ${pair.title}`);
  find(".enlarge").setAttribute("aria-label", `Enlarge ${pair.title}`);
  if (!pair.film) {
    find(".enlarge").remove();
    find(".star").remove();
    const why = make("div", {className: "reason", tabIndex: 0});
    why.append(make("b", {textContent: pair.reason ? "Could not be made" : "Not made yet"}));
    if (pair.reason) why.append(make("p", {textContent: pair.reason}));
    find(".talkie").append(why);
    return;
  }
  // The source image, and over it the film's frame at a moment with motion; no more is read until it plays.
  if (pair.source) find(".talkie").append(make("img", {src: pair.source, alt: "", decoding: "async"}));
  const moment = pair.moment || 0, start = {playsInline: true, tabIndex: -1};
  const talkie = make("video", {...start, muted: true, preload: "metadata", src: `${pair.film}#t=${moment}`});
  talkie.setAttribute("aria-hidden", "true");  // its button has the label
  talkie.onended = () => { talkie.currentTime = 0; if (talkie.muted) playAlone(talkie); };
  const button = make("button", {className: "play"});
  button.setAttribute("aria-label", `Play ${pair.title}${pair.sound ? "" : ", no sound"}`);
  find(".talkie").append(talkie, button);
  player(button, place, () => {
    if (pair.preview && !find(".driving video")) {
      const driving = make("video", {...start, src: pair.preview, muted: true, preload: "auto"});
      driving.setAttribute("aria-hidden", "true");
      find(".driving small").before(driving);
      inStep(talkie, driving);
    }
    return talkie;
  }, {sound: pair.sound, moment});
  star(find(".star"), pair);
  find(".star").onclick = () => choose(pair);
  find(".enlarge").onclick = () => enlarge(pair);
}

// A card's name is what its group's heading does not say.
function caption(pair) {
  const title = pair.place.querySelector("h3"), choices = pair.place.querySelector(".caption p");
  const [of, own] = grouped === "picture" ? [clips[pair.clip], "part"] : [pictures[pair.picture], "crop"];
  title.replaceChildren(of.name);
  if (pair.variant) title.append(" ", make("span", {textContent: pair.variant}));
  title.title = title.textContent;
  choices.textContent = choices.title = [of[own], pair.choices].filter(Boolean).join(", ");
  choices.hidden = !choices.textContent;
}

function warn(pair, details) {
  details.hidden = !pair.doubts.length;
  details.querySelector("summary").textContent = `⚠ ${pair.doubts.length}`;
  const title = plural(pair.doubts.length, "warning", "warnings");
  details.querySelector("summary").setAttribute("aria-label", `${title} about ${pair.title}`);
  details.querySelector("summary").title = title;
  details.querySelector("ul").replaceChildren(...doubtLines(pair));
}
function doubtLines(pair) {
  return pair.doubts.map(([of, text]) => {
    const line = make("li");
    line.append(make("b", {textContent: of}), ` ${text}`);
    return line;
  });
}

function empty(pair) {
  if (pair.place.classList.contains("playing") || pair.place.contains(document.activeElement)) return;
  if (pair.place.querySelector("details[open]")) return;
  for (const video of pair.place.querySelectorAll("video")) { video.removeAttribute("src"); video.load(); }
  pair.place.replaceChildren();
}

const near = new IntersectionObserver(seen => {
  for (const {target, isIntersecting} of seen) isIntersecting ? fill(target.pair) : empty(target.pair);
}, {rootMargin: "800px 0px"});

for (const pair of pairs) {
  pair.title = [pair.image, pair.variant, "with", pair.driving].filter(Boolean).join(" ");
  pair.place = make("article", {className: pair.film ? "card" : "card unmade"});
  pair.place.pair = pair;
  pair.place.setAttribute("aria-label", pair.title);
  near.observe(pair.place);
}

// ---- groups of cards, each under the heading of a driving video or a picture ----

const byName = new Intl.Collator(undefined, {numeric: true}).compare;
const failure = pair => !pair.film && Boolean(pair.reason);
const orders = {  // the grouping; pairs are sorted by driving video and name
  driving: {of: "clip", sorted: pairs},
  image: {of: "picture", sorted: [...pairs].sort((a, b) => byName(a.image, b.image) || a.picture - b.picture)},
  moved: {of: "clip", sorted: [...pairs].sort((a, b) => clips[b.clip].moved - clips[a.clip].moved || a.clip - b.clip)},
  failed: {of: "clip", sorted: null},
};
{
  const failures = new Map();
  for (const pair of pairs) failures.set(pair.clip, (failures.get(pair.clip) || 0) + failure(pair));
  orders.failed.sorted = [...pairs].sort((a, b) => failures.get(b.clip) - failures.get(a.clip) || a.clip - b.clip || failure(b) - failure(a));
}

function arrange({of, sorted}) {
  grouped = of;
  const found = new Map();
  for (const pair of sorted) {
    if (!found.has(pair[of])) found.set(pair[of], []);
    found.get(pair[of]).push(pair);
  }
  groups = [...found].map(([number, cards]) => of === "clip" ? clipGroup(number, cards) : pictureGroup(number, cards));
  for (const pair of pairs) if (pair.place.firstChild) caption(pair);
  byId("groups").replaceChildren(...groups.map(group => group.link));
  byId("main").replaceChildren(...groups.map(group => group.piece));
}

function group(id, {name, full, part, crop}, cards, still, alt) {
  const piece = byId("clip-template").content.cloneNode(true).firstElementChild;
  const made = cards.filter(pair => pair.film).length;
  piece.id = id;
  piece.querySelector("h2").append(name);
  if (part || crop) piece.querySelector("h2").append(" ", make("span", {textContent: part || crop}));
  piece.querySelector("p span").textContent = made === cards.length ? plural(made, "talkie", "talkies")
    : `${plural(made, "talkie", "talkies")} of ${cards.length.toLocaleString("en")}`;
  piece.querySelector(".grid").append(...cards.map(pair => pair.place));
  if (still) piece.querySelector(".driver").append(make("img", {src: still, alt, loading: "lazy"}));
  return {piece, cards, link: make("a", {href: `#${id}`, textContent: full, title: full})};
}

function pictureGroup(number, cards) {
  const picture = pictures[number];
  return group(`picture-${number}`, picture, cards, picture.source, `Source image ${picture.full}`);
}

function clipGroup(number, cards) {
  const clip = clips[number], {preview, poster, mosaic} = clip;
  const made = group(`clip-${number}`, clip, cards, poster, `Driving video ${clip.full}`);
  if (mosaic) made.piece.querySelector("p").append(" · ", make("a", {href: mosaic, textContent: "at once in one film"}));
  if (!preview) return made;
  const driver = made.piece.querySelector(".driver"), button = make("button", {className: "play"});
  button.setAttribute("aria-label", `Play the driving video ${clip.full}${clip.sound ? "" : ", no sound"}`);
  driver.append(button);
  player(button, driver, () => {
    let video = driver.querySelector("video");
    if (video) return video;
    video = make("video", {src: preview, playsInline: true, tabIndex: -1});
    video.setAttribute("aria-hidden", "true");
    button.before(video);
    return video;
  }, clip);
  return made;
}

// ---- finding ----

const which = byId("which");
const kinds = {all: () => true, chosen: isChosen, doubtful: pair => pair.doubts.length > 0, failed: failure};
function countChoices() {
  for (const option of which.options) {
    const count = pairs.filter(kinds[option.value]).length;
    option.dataset.words ||= option.textContent;
    option.textContent = option.value === "all" ? option.dataset.words : `${option.dataset.words} (${count.toLocaleString("en")})`;
    option.hidden = option.disabled = !count && option.value !== "all" && !option.selected;
  }
  const count = pairs.filter(isChosen).length;
  byId("download").hidden = !count;
  byId("download").textContent = `Download the chosen (${count.toLocaleString("en")})`;
}
let shown = pairs;
function filter() {
  const wanted = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  shown = [];
  for (const {piece, link, cards} of groups) {
    let some = false;
    for (const pair of cards) {
      const fits = kinds[which.value](pair) && wanted.every(word => pair.words.includes(word));
      if (pair.place.hidden === fits) pair.place.hidden = !fits;
      if (fits) { some = true; shown.push(pair); }
    }
    piece.hidden = link.hidden = !some;
  }
  byId("nothing").hidden = shown.length > 0;
  byId("nothing").textContent = !pairs.length ? "No talkies yet."
    : which.value === "all" ? "Nothing fits these words." : "None of these, or none that fits the words.";
  byId("shown").textContent = shown.length < pairs.length ? `${plural(shown.length, "pair", "pairs")} shown` : "";
}
byId("filter").oninput = filter;
which.onchange = () => { countChoices(); filter(); };
byId("order").onchange = () => { playing?.pause(); arrange(orders[byId("order").value]); filter(); };
addEventListener("storage", event => { if (event.key === KEPT) { chosen = kept(); showChosen(); } });
addEventListener("keydown", event => {
  if (event.key === "/" && !event.ctrlKey && !event.metaKey && !byId("stage").open && event.target !== byId("filter")) {
    event.preventDefault();
    byId("filter").select();
  }
});

const made = pairs.filter(pair => pair.film).length, failed = pairs.filter(failure).length;
byId("count").append(`${plural(made, "talkie", "talkies")} of ${plural(new Set(pairs.map(p => p.image)).size, "picture", "pictures")}` +
  ` and ${plural(new Set(pairs.map(p => p.driving)).size, "driving video", "driving videos")}`);
if (failed) byId("count").append("; ", make("span", {className: "failed", textContent: `${failed.toLocaleString("en")} could not be made`}));
byId("order").lastElementChild.hidden = !failed;
byId("order").querySelector("[value=moved]").hidden = !clips.some(clip => clip.moved);
countChoices();
byId("finder").hidden = !pairs.length;
arrange(orders.driving);
filter();

// ---- the films of the chosen ----

// A page from a folder may not read other files, and opens a film's link instead of saving it; but it can offer a text.
function script(films) {
  const quoted = text => `'${text.replaceAll("'", `'\\''`)}'`;
  const copy = film => {
    const to = decodeURIComponent(film), from = new URL(film, location.href);
    const local = from.protocol === "file:";
    return [
      `mkdir -p ${quoted(`chosen/${to.slice(0, to.lastIndexOf("/"))}`)}`,
      local ? `cp -p ${quoted(decodeURIComponent(from.pathname))} ${quoted(`chosen/${to}`)}`
        : `curl --fail --silent --show-error --output ${quoted(`chosen/${to}`)} ${quoted(from.href)}`,
    ];
  };
  const head = ["#!/bin/sh", `# Copies the ${plural(films.length, "chosen film", "chosen films")} into the folder "chosen" beside this script.`];
  return [...head, "set -eu", 'cd "$(dirname "$0")"', ...films.flatMap(copy), ""].join("\n");
}
byId("download").onclick = () => {
  const text = script(pairs.filter(isChosen).map(pair => pair.film));
  const link = make("a", {href: URL.createObjectURL(new Blob([text], {type: "text/x-shellscript"})), download: "chosen.sh"});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
};

// ---- the stage: one pair, large ----

const stage = byId("stage"), talkie = byId("stage-talkie"), driving = byId("stage-driving");
inStep(talkie, driving);

// The other variants of a pair, silent and in step with it.
let others = new AbortController();
function showOthers(pair) {
  others.abort();
  others = new AbortController();
  const found = pair ? pairs.filter(other => other !== pair && other.film && other.clip === pair.clip && other.picture === pair.picture) : [];
  byId("stage-others").replaceChildren(...found.map(other => {
    const video = make("video", {src: other.film, muted: true, playsInline: true, preload: "auto"}), figure = make("figure");
    const button = make("button", {textContent: [other.variant || "without a variant", other.choices].filter(Boolean).join(", "), onclick: () => enlarge(other)});
    video.setAttribute("aria-label", `talkie ${other.title}`);
    inStep(talkie, video, others.signal);
    figure.append(video, button);
    return figure;
  }));
  byId("stage-others").hidden = !found.length;
}

function enlarge(pair) {
  onStage = pair;
  showOthers(pair);
  byId("stage-name").replaceChildren(pair.image, pair.variant ? " " : "", make("span", {textContent: pair.variant || ""}), " with ", pair.driving);
  byId("stage-source").src = pair.source || "data:,";
  byId("stage-source").alt = `Source image ${pair.image}`;
  pair.preview ? driving.src = pair.preview : driving.removeAttribute("src");
  pair.poster ? driving.poster = pair.poster : driving.removeAttribute("poster");
  pair.source ? talkie.poster = pair.source : talkie.removeAttribute("poster");
  byId("stage-sound").textContent = ["talkie", pair.choices, pair.sound ? "" : "no sound"].filter(Boolean).join(", ");
  byId("stage-doubts").replaceChildren(...doubtLines(pair));
  byId("stage-doubts").hidden = !pair.doubts.length;
  star(stage.querySelector(".star"), pair, "Choose");
  talkie.src = pair.film;
  byId("stage-film").href = pair.film;
  byId("stage-record").hidden = !pair.record;
  if (pair.record) byId("stage-record").href = pair.record;
  stage.querySelector("[data-do=previous]").disabled = !neighbour(-1);
  stage.querySelector("[data-do=next]").disabled = !neighbour(1);
  if (!stage.open) stage.showModal();
  playing?.pause();
  stage.querySelector("[data-do=play]").focus();
}
function neighbour(step) {
  for (let i = shown.indexOf(onStage) + step; i >= 0 && i < shown.length; i += step) if (shown[i].film) return shown[i];
  return null;
}
const acts = {
  close: () => stage.close(),
  choose: () => choose(onStage),
  play: () => talkie.paused ? playAlone(talkie) : talkie.pause(),
  previous: () => { const pair = neighbour(-1); if (pair) enlarge(pair); },
  next: () => { const pair = neighbour(1); if (pair) enlarge(pair); },
};
stage.addEventListener("click", event => {
  if (event.target === stage) return stage.close();
  const button = event.target.closest("[data-do]");
  if (button) acts[button.dataset.do]();
});
stage.addEventListener("keydown", event => {
  if (event.target === talkie) return;  // the film's own controls take these keys
  if (event.key === "ArrowLeft") acts.previous();
  if (event.key === "ArrowRight") acts.next();
  if (event.key === " " && !event.target.closest("button, a")) { event.preventDefault(); acts.play(); }
});
stage.addEventListener("close", () => {
  talkie.pause();
  showOthers(null);
  for (const video of [talkie, driving]) { video.removeAttribute("src"); video.load(); }
  if (onStage) { onStage.place.scrollIntoView({block: "nearest"}); fill(onStage); onStage.place.querySelector(".enlarge")?.focus(); }
  onStage = null;
});
talkie.addEventListener("play", () => { stage.querySelector("[data-do=play]").textContent = "Pause"; });
talkie.addEventListener("pause", () => { stage.querySelector("[data-do=play]").textContent = "Play together"; });

// Cards far from the window are empty: fill all of them for printing.
addEventListener("beforeprint", () => { near.disconnect(); shown.forEach(fill); });
addEventListener("afterprint", () => { for (const pair of pairs) near.observe(pair.place); });
