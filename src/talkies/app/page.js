// The page: sends files and the form, shows what the server found and made. Texts of the server and names of files
// become text, never HTML.
import { openCamera } from "./camera.js";

const KINDS = ["images", "driving"];
const find = (selector, within = document) => within.querySelector(selector);
const form = find("#form");
const chosen = { images: null, driving: null };  // {file, name}: the server's name of the file, and its own
const shown = { images: null, driving: null };  // the last findings
const sending = {};  // the uploads that go on
let mine = [], current = null;  // numbers of the films that were requested here, and of the one that is shown
let options, drawn = "", answers = true;

const make = (tag, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};

async function ask(path, body, method = body === undefined ? "GET" : "POST") {
  let answer;
  try {
    answer = await fetch(path, { method, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Error("talkies app does not answer: is it still running?");
  }
  if (answer.status === 401) throw new Error("this page is of an earlier start: open the address that talkies app printed");
  if (!answer.ok) throw new Error((await answer.text()).slice(0, 1000));
  return answer.json();
}

const seconds = (value) => {
  const whole = Math.max(0, Math.round(value));
  if (whole >= 3600) return `${Math.floor(whole / 3600)} h ${Math.floor((whole / 60) % 60)} min`;
  return whole >= 60 ? `${Math.floor(whole / 60)} min ${whole % 60} s` : `${whole} s`;
};

// --- the form ---

const cropOf = (kind) => {
  const word = find(`#${kind} .crop`).value;
  return word === "box" ? find(`#${kind} .typed`).value.trim() : word;
};

function values() {
  const field = (name) => form.elements[name];
  const number = (name) => (field(name).value === "" ? null : Number(field(name).value));
  const best = find("#best").value;
  return {
    picture: chosen.images?.file ?? "",
    driving: chosen.driving?.file ?? "",
    picture_crop: cropOf("images"),
    driving_crop: cropOf("driving"),
    maker: field("maker").value,
    start: number("start"),
    end: number("end"),
    best_frame: best === "number" ? number("frame") : best || null,
    ...Object.fromEntries([...form.querySelectorAll("[type=checkbox]")].map((tick) => [tick.name, tick.checked])),
  };
}

const controls = () => [...document.querySelectorAll("#form select:not(.example), #form input:not([type=file])")];
const settingOf = (control) => (control.type === "checkbox" ? control.checked : control.value);
const keep = () => localStorage.setItem(
  "talkies", JSON.stringify({ start: options.start, chosen, mine, current, set: controls().map(settingOf) }),
);

function restore() {
  const kept = JSON.parse(localStorage.getItem("talkies") || "{}");
  if (kept.start !== options.start) return;
  Object.assign(chosen, kept.chosen);
  ({ mine, current } = kept);
  controls().forEach((control, at) => {
    if (control.type === "checkbox") control.checked = kept.set[at];
    else control.value = kept.set[at];
  });
}

function changed(event) {
  for (const kind of KINDS) {
    const own = find(`#${kind} .crop`).value === "box", typed = find(`#${kind} .typed`);
    find(`#${kind} .own`).hidden = !own;
    if (own && !typed.value && shown[kind]?.box) {
      const [x, y, side] = shown[kind].box;  // the box so far, to change it
      typed.value = [x, y, side, side].join();
    }
  }
  find("#numbered").hidden = find("#best").value !== "number";
  keep();
  const within = event?.target.closest?.(KINDS.map((kind) => `#${kind}`).join());
  for (const kind of within ? [within.id] : KINDS) look(kind);
  lines();
}

// --- picture and driving video ---

function begin(kind) {
  const clip = kind === "driving", field = find(`#${kind}`);
  field.append(find("#input").content.cloneNode(true));
  const input = find("[type=file]", field), drop = find(".drop", field), example = find(".example", field);
  find(".ask", field).textContent = clip ? "Choose a video, or drop one here" : "Choose a picture, or drop one here";
  input.accept = options.suffixes[kind].join();
  input.addEventListener("change", () => input.files[0] && send(kind, input.files[0], input.files[0].name));
  for (const event of ["dragover", "dragleave", "drop"])
    drop.addEventListener(event, (e) => {
      e.preventDefault();
      drop.classList.toggle("over", event === "dragover");
      if (event === "drop" && e.dataTransfer.files[0]) send(kind, e.dataTransfer.files[0], e.dataTransfer.files[0].name);
    });
  for (const [name, file] of Object.entries(options.examples[kind])) example.append(new Option(name, file));
  example.addEventListener("change", () => choose(kind, example.value && { file: example.value, name: example.selectedOptions[0].text }));
  openCamera(field, clip, (recorded, name) => send(kind, recorded, name));
  find("img", field).addEventListener("click", (e) => {
    const { size, box } = shown[kind], scale = size[0] / e.target.clientWidth;
    setBox(kind, e.offsetX * scale, e.offsetY * scale, box[2]);
  });
  const resize = (factor) => () => {
    if (!shown[kind]?.box) return;
    const [x, y, side] = shown[kind].box;
    setBox(kind, x + side / 2, y + side / 2, Math.max(8, side * factor));
  };
  find(".smaller", field).addEventListener("click", resize(0.8));
  find(".larger", field).addEventListener("click", resize(1.25));
}

function setBox(kind, x, y, side) {
  find(`#${kind} .crop`).value = "box";
  find(`#${kind} .typed`).value = [x - side / 2, y - side / 2, side, side].map(Math.round).join();
  changed({ target: find(`#${kind}`) });
}

function send(kind, content, name) {
  const bar = find(`#${kind} .sending`), megabytes = options.largest / 1e6;
  choose(kind, null);
  if (content.size > options.largest) {
    found(kind, { problems: [["fails", `${name}: too large: files may have ${megabytes} MB (--max-upload)`]] });
    return;
  }
  sending[kind]?.abort();
  const request = (sending[kind] = new XMLHttpRequest());  // fetch does not report the progress of an upload
  const wrong = (text) => found(kind, { problems: [["fails", `${name}: ${text}`]] });
  request.open("POST", `files?name=${encodeURIComponent(name)}`);
  request.upload.onprogress = (e) => Object.assign(bar, { max: e.total, value: e.loaded });
  request.onload = () => (request.status === 200 ? choose(kind, JSON.parse(request.responseText)) : wrong(request.responseText));
  request.onerror = () => wrong("the upload was cut off: choose it again");
  request.onloadend = () => { if (sending[kind] === request) bar.hidden = true; };
  bar.hidden = false;
  request.send(content);
}

function choose(kind, file) {
  chosen[kind] = file || null;
  const example = find(`#${kind} .example`);
  example.value = [...example.options].some((each) => each.value === file?.file) ? file.file : "";
  changed({ target: find(`#${kind}`) });
}

const last = {};
async function look(kind) {
  const number = (last[kind] = (last[kind] ?? 0) + 1);  // only the newest answer counts
  let told = {};
  if (chosen[kind] && form.checkValidity())
    told = await ask(`look?kind=${kind}`, values()).catch((error) => ({ problems: [["fails", error.message]] }));
  if (number === last[kind]) found(kind, told);
}

function found(kind, told) {
  const field = find(`#${kind}`), view = find(".view", field);
  shown[kind] = told;
  const name = chosen[kind] ? [make("li", {}, make("b", {}, chosen[kind].name))] : [];
  find(".found", field).replaceChildren(
    ...name,
    ...(told.facts ?? []).map((line) => make("li", { className: "fact" }, line)),
    ...(told.problems ?? []).map(([level, text]) => make("li", { className: level }, text)),
  );
  view.hidden = !told.view;
  if (!told.view) return;
  find("img", view).src = told.view;
  const [width, height] = told.size, [x, y, side] = told.box, box = find(".box", view).style;
  [box.left, box.top] = [`${(100 * x) / width}%`, `${(100 * y) / height}%`];
  [box.width, box.height] = [`${(100 * side) / width}%`, `${(100 * side) / height}%`];
}

// --- films ---

form.addEventListener("submit", async (e) => {
  e.preventDefault();
  await told("#said", async () => {
    current = await ask("films", values());
    mine.push(current);
    keep();
    await watch();
  });
});

find("#stop").addEventListener("click", () => told("#said", async () => draw(await ask(`films/${current}`, undefined, "DELETE"))));

async function told(place, act) {
  find(place).textContent = "";
  try {
    await act();
  } catch (error) {
    find(place).append(find(place).matches("ul") ? make("li", { className: "fails" }, error.message) : error.message);
  }
}

async function watch() {
  try {
    draw(await ask("films"));
    if (!answers) find("#said").textContent = "";
    answers = true;
  } catch (error) {
    answers = false;
    find("#said").textContent = error.message;
  }
}

const isOpen = (job) => ["waiting", "running"].includes(job.state);

function draw(jobs) {
  const shown = () => jobs.find((job) => job.number === current);
  // After a film was cancelled, show the next one that was requested here.
  if (shown()?.state === "cancelled")
    current = jobs.filter((job) => isOpen(job) && mine.includes(job.number)).pop()?.number ?? current;
  find("#queue").replaceChildren(...jobs.map(lineOf));
  const job = shown(), now = `${current} ${job?.state}`;
  find("#stop").disabled = !(job && isOpen(job));
  if (now !== drawn) find("#film").replaceChildren(...filmOf(job));
  drawn = now;
}

function lineOf(job) {
  const line = make("li", { className: job.number === current ? "current" : "" }, `${job.number}. ${job.title}: `);
  if (job.state === "running") {
    const percent = job.done === null ? "looking for faces, loading the network" : `${Math.floor(100 * job.done)} %`;
    line.append(percent, job.seconds_left === null ? " " : `, about ${seconds(job.seconds_left)} left `);
    line.append(make("progress", job.done === null ? {} : { max: 1, value: job.done }));
  } else if (job.state === "waiting") {
    line.append(`waiting, ${job.before} ${job.before === 1 ? "film" : "films"} before it`);
  } else if (job.state === "done") {
    line.append("done, ", make("a", { href: `films/${job.number}/film.mp4`, target: "_blank" }, "film"));
  } else {
    line.append(job.state);
  }
  return line;
}

function filmOf(job) {
  if (!job || isOpen(job)) return [];
  if (job.state === "failed") return [make("p", { className: "fails" }, job.reason)];
  if (job.state === "cancelled") return [make("p", {}, "cancelled")];
  const at = `films/${job.number}`, figure = (text, shown) => make("figure", {}, shown, make("figcaption", {}, text));
  const video = { playsInline: true, preload: "auto" };
  const driver = make("video", { ...video, className: "follows", src: `${at}/driver.mp4`, muted: true });
  const film = make("video", {
    ...video, className: "leads", src: `${at}/film.mp4`, controls: true, loop: true, muted: !job.sound,
  });
  inStep(film, driver);
  return [
    make("div", { className: "films" },
      figure("the picture", make("img", { src: `${at}/source.png`, alt: "" })),
      figure("the driving video", driver),
      figure("the film", film)),
    make("p", {},
      make("a", { href: `${at}/film.mp4`, download: `${job.title}.mp4` }, "Download the film"), " · ",
      make("a", { href: `${at}/film.json`, download: `${job.title}.json` }, "and its JSON"),
      ` · made in ${seconds(job.seconds)}`),
  ];
}

// The driving video plays in step with the film beside it.
function inStep(film, driver) {
  const meet = (within) => {
    if (Math.abs(driver.currentTime - film.currentTime) > within) driver.currentTime = film.currentTime;
    driver.playbackRate = film.playbackRate;
  };
  film.addEventListener("play", () => { meet(0.02); driver.play().catch(() => {}); });
  film.addEventListener("pause", () => { driver.pause(); meet(0.02); });
  film.addEventListener("seeking", () => meet(0.02));
  for (const event of ["ratechange", "timeupdate"]) film.addEventListener(event, () => meet(0.1));
}

// --- a run folder ---

async function lines() {
  const number = (last.lines = (last.lines ?? 0) + 1);  // only the newest answer counts
  const able = chosen.images && chosen.driving && form.checkValidity();
  const told = able ? await ask("lines", values()).catch(() => "") : "";
  if (number === last.lines) find("#lines").textContent = told;
}

// --- start ---

options = await ask("options");
KINDS.forEach(begin);
for (const name of options.makers) form.elements.maker.append(new Option(name));
restore();
form.addEventListener("keydown", (e) => {
  if (e.key === "Enter" && e.target.matches("input")) { e.preventDefault(); e.target.blur(); }  // which takes the value
});
form.addEventListener("change", (e) => { if (!e.target.matches("[type=file], .example")) changed(e); });
changed();
watch();
setInterval(watch, 1000);
document.body.dataset.ready = "true";
