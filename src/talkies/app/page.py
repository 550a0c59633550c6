"""The page: its controls, and their actions on the studio."""

from __future__ import annotations

import base64
import html
import logging
import os
import secrets
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import media
from ..engines import FOMM, Movement
from ..errors import TalkiesError, counted, printable
from ..fomm.model.presets import PRESETS
from ..media import crop
from ..run.estimate import duration
from ..stages.check_file import ClipFacts, Item, Unreadable, look
from ..stages.check_problems import DOUBTFUL, FAILS, NOTE, Finding, findings_of
from . import run_folder
from .choices import Choices, Network, read_best_frame, read_crop, read_segment, usual_crop
from .studio import DONE, DRIVER, FAILED, FILM, KINDS, RECORD, RUNNING, SOURCE, WAITING, Job, Studio

if TYPE_CHECKING:
    import gradio as gr

log = logging.getLogger("talkies")

LOOK = Path(__file__).with_name("page.css")
SCRIPT = Path(__file__).with_name("page.js")
OVERVIEW_SIDE = 720  # side in pixels of the whole picture with its crop
LINE = (255, 120, 0)
CROPS = ["face", "face:left", "face:right", "face:2", "center", "none"]
STEP = 1.25  # the factor by which a crop is enlarged or shrunk
LEVELS = {FAILS: "wrong", DOUBTFUL: "look", NOTE: "note"}
STATES = {DONE: "done", FAILED: "failed", WAITING: "waiting", RUNNING: "being made"}
FORM = 14
"""The controls that define a film, in the order of `_choices`."""


def build(studio: Studio, root: str) -> gr.Blocks:
    """Return the page. root: the path under which a proxy serves it, without a slash at its end."""
    # gradio reads these on import: no usage statistics, no hub requests, files in the studio's folder.
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": str(studio.uploads),
        "GRADIO_SSR_MODE": "False",
        "GRADIO_MCP_SERVER": "False",
        "GRADIO_RUN_HISTORY": "False",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
    }
    import gradio as gr

    with gr.Blocks(title="Talkies", analytics_enabled=False) as page:
        visit = gr.BrowserState("", storage_key="talkies", secret="talkies")
        current, seen = gr.State(None), gr.State("")
        gr.HTML("<h1>Talkies</h1><p>A picture, moved by a driving video, with the video's sound.</p>")
        with gr.Row():
            picture = _Input(gr, studio, "images", "Picture")
            clip = _Input(gr, studio, "driving", "Driving video")
        with gr.Row():
            start = gr.Textbox(label="Start, seconds", placeholder="its beginning", max_length=20, elem_id="start")
            end = gr.Textbox(label="End, seconds", placeholder="its end", max_length=20, elem_id="end")
            engine = gr.Dropdown(list(studio.engines), value=FOMM, label="Engine", elem_id="engine")
            weights = gr.Dropdown(
                list(studio.networks), value=next(iter(studio.networks)), label="Weights", elem_id="weights"
            )
            best = gr.Dropdown(
                [("the first", ""), ("the one nearest the picture's pose", "auto")],
                value="",
                label="Count motion from frame",
                info="or write its number",
                allow_custom_value=True,
                elem_id="best",
            )
        with gr.Row():
            relative = gr.Checkbox(
                True, label="Relative motion", info="else the driver's own poses", elem_id="relative"
            )
            scale = gr.Checkbox(True, label="Adapt scale", info="motion by the faces' sizes", elem_id="scale")
            sound = gr.Checkbox(True, label="Sound", info="the driving video's", elem_id="sound")
            paste = gr.Checkbox(False, label="Paste back", info="show the whole picture", elem_id="paste")
            faceless = gr.Checkbox(False, label="Without a face too", info="by any driving video", elem_id="faceless")
        form = [picture.file, clip.file, picture.crop, clip.crop, start, end, engine, weights, relative, scale, best]
        form += [sound, paste, faceless]
        assert len(form) == FORM
        with gr.Row():
            go = gr.Button("Animate", variant="primary", elem_id="go")
            stop = gr.Button("Cancel", interactive=False, elem_id="stop")
        said = gr.HTML(elem_id="said")
        queue = gr.HTML(elem_id="queue")
        film = gr.HTML(elem_id="film")
        with gr.Accordion("Do this for a thousand", open=False, elem_id="many"):
            lines = gr.Code(label="config.yaml", language="yaml", interactive=False, elem_id="lines")
            commands = gr.Code(label="Commands", language="shell", interactive=False, elem_id="commands")
            with gr.Row():
                folder = gr.Textbox(
                    "." if Path("config.yaml").exists() else "portraits",
                    label="Run folder",
                    info=f"in {Path.cwd()}; made if it does not exist",
                    max_length=100,
                    elem_id="folder",
                )
                add = gr.Button("Add picture, video and choices to it", elem_id="add")
            added = gr.HTML(elem_id="added")

        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        private: dict[str, Any] = {"api_visibility": "private"}
        choices = _Choices(studio)

        def many(*values: Any) -> tuple[str, str, str]:
            if not (values[0] and values[1]):
                return "", "", ""
            try:
                return *run_folder.for_many(choices.of(*values)), ""
            except TalkiesError as error:
                return "", "", _wrong(error)

        def begin(visit: str, *values: Any) -> tuple[Any, str]:
            job = studio.submit(choices.of(*values))
            studio.remember(visit, [*values, job.number])
            return job.number, ""

        def keep(visit: str, current: Any, *values: Any) -> None:
            studio.remember(visit, [*values, current])

        def give_up(current: Any) -> Any:
            """Cancel the film that is shown, and show the next one."""
            studio.cancel(current)
            left = [job.number for job in studio.jobs() if job.is_open and not job.cancelled.is_set()]
            return left[-1] if left else current

        def watch(current: Any, seen: str) -> tuple[Any, ...]:
            job = studio.job(current)
            now = f"{current} {job.state}" if job else ""
            shown = gr.skip() if now == seen else _film(job, root)
            return _queue(studio.jobs(), job, root), shown, now, gr.Button(interactive=bool(job and job.is_open))

        def load(visit: str) -> list[Any]:
            known = studio.visits.get(visit)
            if known is None:
                return [secrets.token_hex(16), None, "", *[gr.skip()] * FORM]
            *values, job = known
            files = [value if value and Path(value).is_file() else None for value in values[: len(KINDS)]]
            return [visit, job, "", *files, *values[len(KINDS) :]]

        page.load(load, visit, [visit, current, seen, *form], **quiet)
        go.click(_told(begin, 2), [visit, *form], [current, said], **private)
        stop.click(give_up, current, current, **quiet)
        gr.Timer(1).tick(watch, [current, seen], [queue, film, seen, stop], **quiet)
        changes = [control.change for control in form]
        gr.on(changes, keep, [visit, current, *form], **quiet)
        gr.on(changes, many, form, [lines, commands, added], **quiet)
        add.click(_told(lambda name, *values: choices.add(name, *values), 1), [folder, *form], added, **private)
        picture.connect(gr, [weights, engine, faceless], [], choices)
        clip.connect(gr, [weights, engine, faceless], [start, end], choices)
    page.queue(max_size=100, api_open=False, default_concurrency_limit=4)
    return page


def _told(act: Callable[..., Any], outputs: int) -> Callable[..., Any]:
    """Return a control's function, whose last output is an error in one line; then the other outputs stay."""

    @wraps(act)
    def told(*values: Any) -> Any:
        import gradio as gr

        try:
            return act(*values)
        except TalkiesError as error:
            return (*[gr.skip()] * (outputs - 1), _wrong(error)) if outputs > 1 else _wrong(error)

    return told


def _wrong(error: Exception) -> str:
    return f'<p class="wrong" role="alert">{html.escape(_named(str(error)))}</p>'


def _named(text: str) -> str:
    """Remove the folder of uploads from a message: the user knows only the file's name."""
    folder = os.environ["GRADIO_TEMP_DIR"]
    while (at := text.find(folder)) >= 0:
        rest = text[at + len(folder) + 1 :]
        text = text[:at] + rest.partition("/")[2]
    return text


class _Choices:
    """Reads the controls' values and checks all of them, since they come from outside."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    def of(self, *values: Any) -> Choices:
        """Return the choices; TalkiesError names the control that is wrong."""
        picture, clip, picture_crop, clip_crop, start, end, engine, weights, *rest = values
        relative, scale, best, sound, paste, faceless = rest
        if not picture or not clip:
            raise TalkiesError(f"{'driving video' if picture else 'picture'}: none is chosen yet: choose one first")
        network, usual = self.network(weights, engine)
        first, last = read_segment(start, end)
        return Choices(
            self._studio.own(picture),
            self._studio.own(clip),
            engine,
            network,
            usual,
            read_crop(picture_crop),
            read_crop(clip_crop),
            first,
            last,
            Movement(bool(relative), bool(scale), read_best_frame(best)),
            bool(paste),
            bool(sound),
            bool(faceless),
        )

    def network(self, weights: Any, engine: Any) -> tuple[Network, str]:
        """Return the chosen weights, and the engine's default crop."""
        if not isinstance(engine, str) or engine not in self._studio.engines:
            raise TalkiesError(f"engine {printable(str(engine))[:60]}: choose one of the list")
        if not isinstance(weights, str) or weights not in self._studio.networks:
            raise TalkiesError(f"weights {printable(str(weights))[:60]}: choose some of the list")
        program, network = self._studio.engines[engine], self._studio.networks[weights]
        return network, usual_crop(network.preset) if program is None else program.crop

    def add(self, name: Any, *values: Any) -> str:
        """Add the choices to a run folder; return what was done, as HTML."""
        said = run_folder.add(self.of(*values), self._studio.run_folder(name))
        return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in said) + "</ul>"


class _Input:
    """The controls of a picture or a driving video: its source, its crop, and the check's findings."""

    def __init__(self, gr: Any, studio: Studio, kind: str, label: str) -> None:
        self._studio, self._clip = studio, kind == "driving"
        suffixes = media.CLIP_SUFFIXES if self._clip else media.PICTURE_SUFFIXES
        with gr.Column(elem_id=kind, min_width=300):
            self.file = gr.File(label=label, file_types=sorted(suffixes), height=120, elem_id=f"{kind}-file")
            with gr.Accordion("An example, or the camera", open=False):
                example = gr.Dropdown(studio.examples()[kind], value=None, label="Example", elem_id=f"{kind}-example")
                camera: Any = (gr.Video if self._clip else gr.Image)(
                    sources=["webcam"],
                    label="Camera",
                    webcam_options=gr.WebcamOptions(mirror=False),
                    elem_id=f"{kind}-camera",
                    **({} if self._clip else {"type": "filepath"}),
                )
                # Uploads are not decoded here; only our own readers do that.
                camera.preprocess = lambda sent: _path_of(sent)
            self._view = gr.Image(
                label="Click to move the crop",
                interactive=False,
                show_label=True,
                buttons=[],
                height=300,
                format="png",
                elem_id=f"{kind}-view",
            )
            with gr.Row():
                self.crop = gr.Dropdown(
                    [("usual", ""), *CROPS],
                    value="",
                    label="Crop",
                    info="which face, or x,y,width,height",
                    allow_custom_value=True,
                    elem_id=f"{kind}-crop",
                    scale=3,
                )
                self._smaller = gr.Button("Smaller", size="sm", min_width=60, elem_id=f"{kind}-smaller")
                self._larger = gr.Button("Larger", size="sm", min_width=60, elem_id=f"{kind}-larger")
            self._told = gr.HTML(elem_id=f"{kind}-check")
            self._box = gr.State(None)  # [x, y, side] of the crop, and the scale of the view
        example.change(_told(self._take_example, 2), example, [self.file, self._told], api_visibility="private")
        camera.change(lambda path: path or gr.skip(), camera, self.file, api_visibility="private")

    def _take_example(self, name: Any) -> tuple[Any, Any]:
        import gradio as gr

        if not name:
            return gr.skip(), gr.skip()
        return str(self._studio.example("driving" if self._clip else "images", name)), gr.skip()

    def connect(self, gr: Any, chosen: list[Any], segment: list[Any], choices: _Choices) -> None:
        """Check the file whenever its inputs change."""

        def look(path: Any, cut: Any, weights: Any, engine: Any, faceless: Any, *ends: Any) -> tuple[Any, ...]:
            if not path:
                return None, "", None
            return self._look(path, cut, *choices.network(weights, engine), engine, bool(faceless), *ends)

        def safely(*values: Any) -> tuple[Any, ...]:
            try:
                return look(*values)
            except TalkiesError as error:
                return None, _wrong(error), None

        def moved(box: Any, event: gr.SelectData) -> Any:
            if not box:
                return gr.skip()
            side, scale = box[2:]
            across, down = (float(each) / scale for each in event.index)
            return _box_text(across, down, side)

        # gradio passes the event because of this type; it can't resolve this file's annotations by name.
        moved.__annotations__ = {"event": gr.SelectData}

        def resized(factor: float) -> Callable[[Any], Any]:
            def act(box: Any) -> Any:
                if not box:
                    return gr.skip()
                x, y, side, _ = box
                return _box_text(x + side / 2, y + side / 2, max(8, side * factor))

            return act

        shown = [self._view, self._told, self._box]
        inputs = [self.file, self.crop, *chosen, *segment]
        for control in inputs:
            control.change(safely, inputs, shown, api_visibility="private", show_progress="minimal")
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        self._view.select(moved, self._box, self.crop, **private)
        self._smaller.click(resized(1 / STEP), self._box, self.crop, **private)
        self._larger.click(resized(STEP), self._box, self.crop, **private)

    def _look(
        self,
        path: Any,
        cut: Any,
        network: Network,
        usual: str,
        engine: str,
        faceless: bool,
        start: Any = None,
        end: Any = None,
    ) -> tuple[Any, ...]:
        """Return the whole picture with its crop drawn in, the check's findings, and the crop's place."""
        file = self._studio.own(path)
        request = read_crop(cut) or crop.parse(usual)
        first, last = read_segment(start, end)
        ends: dict[str, Any] = {
            "start": None if first is None else str(first),
            "end": None if last is None else str(last),
        }
        item = Item(file.name, str(file), request, self._clip, **ends)
        finding = findings_of(look(item), PRESETS[network.preset] if engine == FOMM else None, faceless)
        if isinstance(finding.facts, Unreadable):
            return None, _finding(finding), None
        if self._clip:
            clip = media.probe(file)
            whole = next(iter(media.read_frames(clip, start=first, end=last)))
        else:
            whole = media.read_picture(file)
        box = finding.facts.crop.box
        scale = min(1.0, OVERVIEW_SIDE / max(whole.shape[:2]))
        return _with_box(whole, box, scale), _finding(finding), [*box, scale]


def _path_of(sent: Any) -> str | None:
    """Return the path of a recording from gradio."""
    sent = getattr(sent, "video", sent)
    return getattr(sent, "path", None)


def _box_text(x: float, y: float, side: float) -> str:
    """Return a crop around a place."""
    return f"{round(x - side / 2)},{round(y - side / 2)},{round(side)},{round(side)}"


def _with_box(whole: Any, box: crop.Box, scale: float) -> Any:
    """Return a picture, uint8 [H, W, 3], scaled down, dark outside a box and with the box's border."""
    size = max(1, round(whole.shape[1] * scale)), max(1, round(whole.shape[0] * scale))
    small = crop.resize(whole, size).copy()
    left, top = max(0, round(box.x * scale)), max(0, round(box.y * scale))
    right, bottom = round((box.x + box.side) * scale), round((box.y + box.side) * scale)
    inner = small[top:bottom, left:right].copy()
    small = small // 2
    small[top:bottom, left:right] = LINE
    line = 3
    small[top + line : bottom - line, left + line : right - line] = inner[line:-line, line:-line]
    return small


def _finding(finding: Finding) -> str:
    """Return the check's findings of a file as HTML: crop, facts, problems."""
    facts, thumb = finding.facts, ""
    if finding.thumb:
        data = base64.b64encode(finding.thumb).decode()
        thumb = f'<img src="data:image/jpeg;base64,{data}" width="128" height="128" alt="the crop">'
    told = []
    if not isinstance(facts, Unreadable):
        told.append(f"{facts.width} × {facts.height} pixels")
        if isinstance(facts, ClipFacts):
            told[0] += f", {facts.seconds:g} s, {counted(facts.frames, 'frame')}, sound: {facts.sound or 'none'}"
        x, y, side = facts.crop.box
        about = (
            "about " if finding.item.clip and finding.item.crop.mode == "face" else ""
        )  # a dozen frames were checked
        told.append(f"crop: {about}{side} pixels square at {x},{y}")
    lines = [f"<li>{html.escape(each)}</li>" for each in told]
    for problem in finding.problems:
        advice = "" if problem.level == FAILS else problem.advice.partition(" in config.yaml")[0]
        text = html.escape(f"{problem.text}: {advice}" if advice else problem.text)
        lines.append(f'<li class="{LEVELS[problem.level]}">{text}</li>')
    return f'<div class="finding">{thumb}<ul>{"".join(lines)}</ul></div>'


def _film(job: Job | None, root: str) -> str:
    """Return a finished film with its inputs and its links, or the reason if it failed."""
    if job is None or job.is_open:
        return ""
    if job.state == FAILED:
        return f'<p class="wrong" role="alert">{html.escape(job.reason)}</p>'
    if job.state != DONE:
        return "<p>cancelled</p>"
    at, name = f"{root}/made/{job.number}", html.escape(job.title)
    muted = "" if job.choices.sound else " muted"
    return (
        '<div class="films">'
        f'<figure><img src="{at}/{SOURCE}" alt=""><figcaption>the picture</figcaption></figure>'
        f'<figure><video class="follows" src="{at}/{DRIVER}" muted playsinline preload="auto"></video>'
        "<figcaption>the driving video</figcaption></figure>"
        f'<figure><video class="leads" src="{at}/{FILM}" controls loop playsinline preload="auto"{muted}></video>'
        "<figcaption>the film</figcaption></figure></div>"
        f'<p><a href="{at}/{FILM}" download="{name}.mp4">Download the film</a> · '
        f'<a href="{at}/{RECORD}" download="{name}.json">and its JSON</a> · '
        f"made in {html.escape(duration(job.seconds))}</p>"
    )


def _queue(jobs: list[Job], current: Job | None, root: str) -> str:
    """Return the queue: films being made and waiting, with frames and the time left."""
    lines = []
    ahead = sum(job.is_open for job in jobs)
    for job in jobs:
        ahead -= job.is_open
        name = f"{job.number}. {html.escape(job.title)}"
        mark = ' class="current"' if job is current else ""
        if job.state == RUNNING:
            left = job.seconds_left
            told = f"{job.made} of {job.total} frames" if job.total else "the network is loaded, faces are looked for"
            told += "" if left is None else f", about {html.escape(duration(left))} left"
            bar = (
                f'<progress max="{max(job.total, 1)}" value="{job.made}"></progress>'
                if job.total
                else "<progress></progress>"
            )
            lines.append(f"<li{mark}>{name}: {told} {bar}</li>")
        elif job.state == WAITING:
            lines.append(f"<li{mark}>{name}: waiting, {counted(ahead, 'film')} before it</li>")
        elif job.state == DONE:
            lines.append(
                f'<li{mark}>{name}: done, <a href="{root}/made/{job.number}/{FILM}" target="_blank">film</a></li>'
            )
        else:
            lines.append(f"<li{mark}>{name}: {STATES.get(job.state, job.state)}</li>")
    return f"<ol>{''.join(lines)}</ol>" if lines else ""
