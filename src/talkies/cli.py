"""The `talkies` command. Exit code 0: done; 1: failed, and why; 2: wrong usage; 128 + n: stopped by signal n."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import Any

from . import __version__
from .errors import Stopped, TalkiesError, printable

log = logging.getLogger("talkies")


ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room there, or name another place"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "mend its rights, or name another place"),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST), "mend the path"),
}
"""What to do about what the system says."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = build_parser()
    chosen = parser.parse_args(arguments)
    log.handlers[:] = [_TerminalHandler()]
    _on_signals()
    try:
        _start_log(chosen)
        code = int(chosen.run(chosen) or 0)
        sys.stdout.flush()
        return code
    except Stopped as error:
        log.error("%s", error.args[0])
        return 128 + int(error.args[1])
    except TalkiesError as error:
        _fail(chosen, str(error))
    except BrokenPipeError:
        # Whoever read the output (head, less) has seen enough. What is left of it goes nowhere, without a word.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        name = f"{printable(str(error.filename))}: " if error.filename else ""
        _fail(chosen, f"{name}{error.strerror or error}: {ADVICE.get(error.errno or 0, 'mend that, and try again')}")
    except ModuleNotFoundError as error:
        _fail(chosen, f"{error.name} is not installed, and this needs it: pip install 'talkies[engine]'")
    except MemoryError:
        _fail(chosen, "out of memory: give the job more, or fewer threads")
    except Exception as error:  # the last line of defence: one line, as promised; all of it with --debug
        reason = " ".join(str(error).split())[:300]
        _fail(chosen, f"unexpected {type(error).__name__}: {reason} (--debug shows where)")
    return 1


def _fail(chosen: argparse.Namespace, message: str) -> None:
    log.error("%s", message)
    if chosen.debug:
        traceback.print_exc()


def _start_log(chosen: argparse.Namespace) -> None:
    """Send messages to stderr, and to the file that --log names: one line each."""
    log.propagate = False
    log.setLevel(logging.DEBUG if chosen.debug else logging.INFO)
    if getattr(chosen, "log", None):
        chosen.log.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(chosen.log, mode="w", encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(file)


class _TerminalHandler(logging.Handler):
    """Writes to stderr, above the progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        mark = {"WARNING": "warning: ", "ERROR": "error: "}.get(record.levelname, "")
        text = f"talkies: {mark}{record.getMessage()}"
        if sys.stderr.isatty():
            from tqdm import tqdm

            tqdm.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)


def _on_signals() -> None:
    """Turn the first SIGTERM or SIGINT into an orderly end; a second one is not needed and not heard."""

    def stop(number: int, _: FrameType | None) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(f"stopped by {signal.Signals(number).name}; what was finished stays", number)

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, stop)


@contextmanager
def _progress() -> Iterator[Any]:
    """Give a progress bar when a terminal watches, and one that says nothing otherwise."""
    from .stages.work import Progress

    if not sys.stderr.isatty():
        yield Progress()
        return
    from tqdm import tqdm

    with tqdm(total=0, unit="", dynamic_ncols=True, file=sys.stderr) as bar:

        def start(total: int, unit: str) -> None:
            bar.unit = f" {unit}"
            bar.reset(total=total)

        def advance(count: int) -> None:
            bar.update(count)

        yield Progress(start, advance)


# --- animate: one pair, the whole way --------------------------------------------------------------------


def animate(chosen: argparse.Namespace) -> None:
    """Crop, find the motion, animate, put the sound on: one picture and one clip into one film."""
    from concurrent.futures import ThreadPoolExecutor

    from . import media
    from .fomm.model.presets import PRESETS
    from .host.scratch import own_folder
    from .media import crop
    from .media.paste import paste_film
    from .run.asks import FILM_CRF, FILM_PRESET
    from .stages.animate import open_engine
    from .stages.remux import PROVENANCE

    target: Path = chosen.output
    _check_output(target, ".mp4", chosen.source, chosen.driving)
    usual = PRESETS[chosen.model].crop
    picture = media.read_picture(chosen.source)
    clip = media.probe(chosen.driving)
    segment = {"start": chosen.start, "end": chosen.end}
    with ThreadPoolExecutor(1, thread_name_prefix="crops") as beside:  # while PyTorch is imported
        cropping = beside.submit(
            crop.crop_picture, picture, crop.parse(chosen.crop_source or usual), name=chosen.source
        )
        finding = beside.submit(crop.find_crop, clip, crop.parse(chosen.crop_driving or usual), **segment)
        engine = open_engine(
            chosen.model,
            chosen.checkpoint,
            device=chosen.device,
            precision=chosen.precision,
            threads=chosen.threads,
        )
        square, cut = cropping.result()
        driving_cut = finding.result()
    from .fomm.engine import Movement
    from .fomm.motion import detect_motion

    log.info("%s: %s", printable(chosen.source), _told(cut))
    log.info("%s: %s", printable(chosen.driving), _told(driving_cut))
    with own_folder("animate") as folder, engine, _progress() as progress:
        progress.start(2 * _frames(clip, chosen), "frames")  # each is looked at, and each is made
        frames = media.read_frames(clip, box=driving_cut.box, size=engine.model.preset.size, **segment)
        motion = detect_motion(engine.model, _advancing(frames, progress), clip.rate, batch=engine.batch)
        silent = folder / "silent.mp4"
        writer = media.FrameWriter(silent, motion.rate, crf=FILM_CRF, preset=FILM_PRESET, threads=engine.threads)
        movement = Movement(not chosen.absolute, not chosen.no_adapt_scale, chosen.best_frame)
        engine.film("source", square, motion, movement, writer, progress=progress.advance).result()
        if chosen.paste_back:
            whole = folder / "whole.mp4"
            paste_film(
                silent, picture, cut.box, media.FrameWriter(whole, motion.rate, crf=FILM_CRF, preset=FILM_PRESET)
            )
            silent = whole
        sound = media.remux(
            silent,
            None if chosen.no_audio else clip,
            target,
            comment=None if chosen.no_provenance else PROVENANCE,
            **segment,
        )
    log.info(
        "%s: %d frames at %s a second, sound: %s", printable(target), motion.frames, clip.rate, sound["sound"] or "none"
    )


def _frames(clip: Any, chosen: argparse.Namespace) -> int:
    """Return about how many frames the segment asked for has."""
    start = chosen.start or 0
    end = clip.duration if chosen.end is None else min(chosen.end, clip.duration)
    return max(0, round((end - start) * clip.rate))


def _told(cut: Any) -> str:
    box = f"{cut.box.side} pixels square at {cut.box.x},{cut.box.y}" if cut.box else "all of it"
    return f"crop {cut.mode}: {box}"


def _advancing(frames: Iterator[Any], progress: Any) -> Iterator[Any]:
    for frame in frames:
        yield frame
        progress.advance(1)


# --- single steps ----------------------------------------------------------------------------------------


def crop_file(chosen: argparse.Namespace) -> None:
    """Cut one picture to PNG, or one clip to mp4 with its sound; print what was cut as JSON."""
    import json

    from . import media
    from .host.scratch import own_folder
    from .media import crop
    from .stages.prepare import write_png

    request = crop.parse(chosen.mode)
    if chosen.file.suffix.lower() in media.PICTURE_SUFFIXES and chosen.file.suffix.lower() not in media.CLIP_SUFFIXES:
        _check_output(chosen.output, ".png", chosen.file)
        square, cut = crop.crop_picture(media.read_picture(chosen.file), request, name=chosen.file, size=chosen.size)
        write_png(chosen.output, square)
    else:
        _check_output(chosen.output, ".mp4", chosen.file)
        clip = media.probe(chosen.file)
        cut = crop.find_crop(clip, request, start=chosen.start, end=chosen.end)
        segment = {"start": chosen.start, "end": chosen.end}
        with own_folder("crop") as folder:
            silent = folder / "silent.mp4"
            with media.FrameWriter(silent, clip.rate) as writer:
                for frame in media.read_frames(clip, box=cut.box, size=chosen.size, **segment):
                    writer.write(frame)
            media.remux(silent, clip, chosen.output, **segment)
    print(json.dumps({"file": str(chosen.file), **cut.to_dict()}))


def find_motion(chosen: argparse.Namespace) -> None:
    """Find the keypoints of one clip and save them."""
    from . import media
    from .fomm.model.presets import PRESETS
    from .fomm.motion import detect_motion
    from .media import crop
    from .stages.animate import open_engine

    _check_output(chosen.output, ".npz", chosen.driving)
    clip = media.probe(chosen.driving)
    cut = crop.find_crop(
        clip, crop.parse(chosen.crop or PRESETS[chosen.model].crop), start=chosen.start, end=chosen.end
    )
    engine = open_engine(
        chosen.model, chosen.checkpoint, device=chosen.device, precision="fp32", threads=chosen.threads
    )
    with engine, _progress() as progress:
        progress.start(_frames(clip, chosen), "frames")
        frames = media.read_frames(clip, start=chosen.start, end=chosen.end, box=cut.box, size=engine.model.preset.size)
        motion = detect_motion(engine.model, _advancing(frames, progress), clip.rate, batch=engine.batch)
    motion.save(chosen.output)
    log.info("%s: %d frames at %s a second", printable(chosen.output), motion.frames, motion.rate)


def remux_file(chosen: argparse.Namespace) -> None:
    """Put a clip's sound under a silent film."""
    import json

    from . import media

    _check_output(chosen.output, ".mp4", chosen.film, chosen.driving)
    facts = media.remux(chosen.film, media.probe(chosen.driving), chosen.output, start=chosen.start, end=chosen.end)
    print(json.dumps(facts, default=str))


def mosaic_films(chosen: argparse.Namespace) -> None:
    """Show many films at once in one, with one's sound."""
    import json

    from . import media

    _check_output(chosen.output, ".mp4", *chosen.films)
    print(json.dumps(media.mosaic(chosen.films, chosen.output, columns=chosen.columns)))


def checkpoint(chosen: argparse.Namespace) -> None:
    """Show a checkpoint, or convert it to safetensors."""
    from .fomm.model import PRESETS, load_checkpoint, save_safetensors, weights_digest
    from .fomm.model.checkpoint import fitting_presets

    if chosen.action == "convert":
        _check_output(chosen.output, ".safetensors", chosen.file)
    entries = load_checkpoint(chosen.file)
    fits = fitting_presets(entries)
    if not fits:
        raise TalkiesError(
            f"{printable(chosen.file)}: its weights fit no preset: give a checkpoint of one of {', '.join(PRESETS)}"
        )
    if chosen.action == "convert":
        save_safetensors(entries, chosen.output, half=chosen.half)
        entries = load_checkpoint(chosen.output)
    print(f"weights sha256 {weights_digest(entries)}")
    print(f"fits {' '.join(fits)}")


def _check_output(path: Path, suffix: str, *inputs: Path) -> None:
    """Refuse an output that could not be written or would replace an input, before anything is computed."""
    name = printable(path)
    if path.suffix.lower() != suffix:
        raise TalkiesError(f"{name}: give the output a name that must end in {suffix}")
    if not path.absolute().parent.is_dir():
        raise TalkiesError(f"{name}: there is no folder {printable(path.absolute().parent)}: make it first")
    if path.is_dir():
        raise TalkiesError(f"{name}: this is a folder: give a file's name")
    for given in inputs:
        if path.exists() and given.exists() and path.samefile(given):
            raise TalkiesError(f"{name}: this would overwrite what it is made from: give another name")


# --- a new run -------------------------------------------------------------------------------------------


def init(chosen: argparse.Namespace) -> None:
    """Make a run folder; say what was made, what was there, and what comes next."""
    from .operate.init import PICTURES, PROFILE_LINK, VIDEOS, lay_out

    made, kept = lay_out(chosen.folder, examples=chosen.examples)
    where = printable(chosen.folder)
    for name in made:
        print(f"made {where}/{name}")
    for name in kept:
        print(f"left as it was: {where}/{name}")
    if (chosen.folder / PROFILE_LINK).resolve() != (chosen.folder / "profiles" / PROFILE_LINK).resolve():
        log.warning("%s/%s is in the way: on a cluster say --profile profiles/slurm", where, PROFILE_LINK)
    print(f"Next: pictures into {where}/{PICTURES}, videos into {where}/{VIDEOS}; there, snakemake -n, then snakemake")


def configuration(chosen: argparse.Namespace) -> None:
    """Print every key of config.yaml and every column of the pairs table: default, meaning, what may stand there."""
    import shutil

    from .run import reference

    forms = {
        "text": lambda: reference.as_text(min(shutil.get_terminal_size().columns, 100)),
        "yaml": reference.as_yaml,
        "markdown": reference.as_markdown,
    }
    print(forms[chosen.format]().rstrip())


class _ConfigurationHelp(argparse.Action):
    """`talkies config --help`: the usage, and what the command prints. Read from the schemas only when asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        parser.print_help()
        print()
        configuration(argparse.Namespace(format="text"))
        parser.exit()


def stage(chosen: argparse.Namespace) -> None:
    """Carry the run folder to a cluster, or its results back."""
    from .operate.carry import stage as carry

    carry(chosen.action, chosen.place, dry=chosen.dry_run, delete=chosen.action == "push" and chosen.delete)


# --- the workflow's stages and a run's state -------------------------------------------------------------


def shard(chosen: argparse.Namespace) -> None:
    """Do one stage of one shard of the plan, and write its receipt."""
    from importlib import import_module

    from .run.plan import Plan
    from .run.receipts import NAME, shard_of
    from .stages.animate import load_engine
    from .stages.work import work

    plan = Plan.load()
    plan.settings["scratch"] = chosen.scratch or plan.settings["scratch"]
    known = plan.picture_shards | plan.take_shards if chosen.stage in ("prepare", "motion") else plan.pair_shards
    if not NAME.fullmatch(chosen.receipt) or shard_of(chosen.receipt) not in known:
        raise TalkiesError(f"{printable(chosen.receipt)}: no shard of the plan; run snakemake again")
    stage = import_module(f".stages.{chosen.stage}", __package__).STAGE
    engine = load_engine(plan, device=chosen.device, threads=chosen.threads)
    with _progress() as progress:
        work(stage, plan, chosen.receipt, engine=engine, progress=progress)


def check(chosen: argparse.Namespace) -> int:
    """Look at every picture and driving video before anything is animated; say what is wrong and what to do."""
    import json

    from .host.cores import available_threads
    from .report import check_page
    from .run.asks import Specs
    from .run.plan import Plan
    from .run.planner import current_plan
    from .run.receipts import answer_all
    from .stages import check as checking

    plan = Plan.load() if chosen.receipt else current_plan()[0]
    workers = chosen.threads or available_threads()
    items = checking.items_of(plan)
    with _progress() as progress:
        progress.start(len(items), "files")
        model = None if chosen.no_poses else _network(plan)
        findings = checking.examine(plan, model=model, workers=workers, advance=progress.advance)
    check_page.save(findings)
    page = check_page.write_page(findings, Path(plan.settings["results"]))
    if chosen.receipt:  # in a run what is wrong is said by the gallery, and by the verdict
        answer_all("check", chosen.receipt, Specs(plan).check())
        log.info("%s: %s", check_page.summary(findings), printable(page))
        return 0
    if chosen.json:
        print(json.dumps([finding.to_dict() for finding in findings], indent=1))
    else:
        for line in check_page.table(findings):
            print(line)
        print(f"{check_page.summary(findings)}: {printable(page)}")
    return int(any(problem.level == checking.FAILS for finding in findings for problem in finding.problems))


def _network(plan: Any) -> Any:
    """Return the function that loads the plan's network on the processor; None where PyTorch is not installed."""
    from functools import cache
    from importlib.util import find_spec

    if find_spec("torch") is None:
        log.info("poses are not compared: PyTorch is not installed here (pip install 'talkies[engine]')")
        return None

    @cache
    def load() -> Any:
        import torch

        from .fomm.model import load_model

        # The other cores are looking at files: threads that wait for one would spend more time than the network takes.
        torch.set_num_threads(1)
        model = plan.settings["model"]
        return load_model(model["preset"], model["checkpoint"], device="cpu", precision="fp32")

    return load


def gallery(chosen: argparse.Namespace) -> None:
    """Write results/index.html from the plan and the films, or lay out what a report carries of it."""
    from .report.check_page import check_line
    from .report.gallery import build_galleries, entries_of, lay_out_report
    from .run.asks import Specs
    from .run.folder import Folder
    from .run.plan import Plan
    from .run.progress import Watch, status_of
    from .run.receipts import ALL, Receipts, answer_all
    from .run.state import look
    from .stages.prepare import mend_shown
    from .stages.work import holding

    plan = Plan.load()
    results, wanted = Folder.of(plan).results, plan.settings["gallery"]
    state = look(plan, Receipts(), "none")
    mend_shown(plan, [name for name in plan.pairs if name not in state.failed])
    entries = entries_of(plan, state)
    if chosen.report:
        lay_out_report(results, entries, chosen.report)
        return
    with holding("gallery"):  # while a run goes on its page is written again and again
        if chosen.going and Folder.receipt("gallery", plan.receipt("gallery", ALL)).exists():
            return  # the run's own page is there
        going = None
        if chosen.going:
            now = status_of(plan, state, Watch(plan, state.to_make).look(), running=True)
            going = f"The run goes on: {now.count}. Reload this page to see more."
        mosaic = None if going else wanted["mosaic"]
        words = {"title": wanted["title"], "check": check_line(results), "going": going}
        for page in build_galleries(results, entries, mosaic=mosaic, **words):
            log.info("gallery: %s", printable(page))
        if chosen.receipt:
            answer_all("gallery", chosen.receipt, Specs(plan).gallery(plan.receipts))


def plots(chosen: argparse.Namespace) -> None:
    """Draw the run's times beside the gallery."""
    from .report.plots import write_plots
    from .run.plan import Plan

    log.info("plots: %s", printable(write_plots(Plan.load())))


def verdict(chosen: argparse.Namespace) -> None:
    """End the workflow: fail and name every pair that could not be made, and why; else write the verdict."""
    from .files import write_json
    from .run.folder import GALLERY_PAGE, Folder
    from .run.plan import Plan
    from .run.progress import by_reason, some
    from .run.receipts import Receipts
    from .run.state import look

    plan = Plan.load()
    state = look(plan, Receipts(), "none")
    if state.failed:
        for reason, names in by_reason(state.failed).items():
            log.error("%s (%d pairs: %s)", reason, len(names), some(names))
        raise TalkiesError(
            f"{len(state.failed)} of {len(plan.pairs)} pairs could not be made, for the reasons above; the others are "
            f"done. Mend or remove the files and run again"
        )
    if state.to_make:
        raise TalkiesError(f"{some(state.to_make)}: changed while the run was at work: run snakemake again")
    write_json(chosen.receipt, {"pairs": len(plan.pairs), "failed": 0})
    log.info("all %d pairs are done: %s", len(plan.pairs), printable(Folder.of(plan).results / GALLERY_PAGE))


def status(chosen: argparse.Namespace) -> None:
    """Say how far the run is and how fast, what failed and why, and which films are no longer asked for."""
    import json
    import time
    from dataclasses import asdict

    from .run.planner import current_plan, is_running
    from .run.progress import Watch, status_of

    while True:
        plan, state = current_plan()
        now = status_of(plan, state, Watch(plan, state.to_make).look(), running=is_running())
        if chosen.json:
            print(json.dumps(asdict(now), default=str, indent=None if chosen.watch else 1))
        else:
            _say_status(now)
        if chosen.watch is None or not is_running():
            return
        sys.stdout.flush()
        time.sleep(max(1, chosen.watch))


def _say_status(now: Any) -> None:
    from .run.progress import by_reason, duration, some

    run = now.run
    print(now.count)
    if run.ended is not None and run.started is not None:
        pace = f"; {run.pace}" if run.pace else ""
        print(f"the last run: {len(run.made)} made in {duration(run.ended - run.started)}{pace}")
    elif run.pace:
        print(f"the run: {run.pace}")
    if run.running:
        print(f"in the making: {some(run.running)}")
    for reason, names in by_reason(now.failed).items():
        print(f"failed: {reason} ({len(names)} pairs: {some(names)})")
    for each in now.at_work:
        print(f"at work: {each}")
    for path in now.orphans:
        print(f"no longer asked for: {printable(path)} (talkies clean removes it)")


def verify(chosen: argparse.Namespace) -> None:
    """Check every film against its record: digest, frames, sound."""
    from .run import upkeep
    from .run.planner import at_work, current_plan

    plan, state = current_plan()
    wrong = upkeep.verify(plan, state, busy=bool(at_work()))
    for name, reason in wrong.items():
        print(f"{printable(name)}: {reason}")
    if wrong:
        raise TalkiesError(
            f"{len(wrong)} of {len(plan.pairs)} films are not as they should be: run snakemake again, which makes them"
        )
    print(f"{len(plan.pairs)} films are whole")


def forget(chosen: argparse.Namespace) -> None:
    """Have pairs made anew by the next run."""
    from .run import upkeep
    from .run.planner import current_plan

    if not chosen.pairs and not chosen.failed:
        raise TalkiesError("name the pairs to forget (driving/image, or driving/ for all of a video), or give --failed")
    names = upkeep.forget(*current_plan(), chosen.pairs, failed=chosen.failed)
    print(f"{len(names)} pairs forgotten: the next snakemake makes them anew")


def clean(chosen: argparse.Namespace) -> None:
    """Remove films whose pair is gone, and what dead workers left."""
    from .run import upkeep
    from .run.planner import current_plan

    paths = upkeep.leftovers(current_plan()[0])
    for path in paths:
        print(printable(path))
    if not chosen.dry_run:
        upkeep.remove(paths)
    print(f"{len(paths)} files {'would be ' if chosen.dry_run else ''}removed")


def doctor(chosen: argparse.Namespace) -> int:
    """Say what is there, what is missing, and what to do."""
    from .operate.doctor import examine

    return examine(Path.cwd(), as_json=chosen.json)


# --- arguments -------------------------------------------------------------------------------------------


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; it imports nothing heavy."""
    from .fomm.model.presets import PRESETS

    parser = argparse.ArgumentParser(
        prog="talkies", description="Makes pictures talk: a picture, moved by a driving video, with the video's sound."
    )
    parser.add_argument("--version", action="version", version=f"talkies {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Any, about: str, **options: Any) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=about, description=about, **options)
        sub.add_argument("--debug", action="store_true", help="say more, and show where an error came from")
        sub.set_defaults(run=run)
        return sub

    def model(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--model", choices=list(PRESETS), default="demo", metavar="NAME", help=", ".join(PRESETS))
        sub.add_argument("--checkpoint", metavar="P", help="its weights (.pth.tar as published, or .safetensors)")
        sub.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
        sub.add_argument("--threads", type=_count, metavar="N", help="cores to use (default: all this job was given)")

    def segment(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--start", type=_seconds, metavar="S", help="second of the driving video to start at")
        sub.add_argument("--end", type=_seconds, metavar="S", help="second of the driving video to end at")

    one = command("animate", animate, "Animate one picture with one driving video, with its sound.")
    one.add_argument("--source", type=Path, required=True, metavar="I", help="the picture")
    one.add_argument("--driving", type=Path, required=True, metavar="V", help="the driving video")
    one.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.mp4")
    model(one)
    one.add_argument("--precision", choices=["auto", "fp32", "bf16", "fp16"], default="auto")
    one.add_argument("--absolute", action="store_true", help="the driver's own poses, not its motion since its first")
    one.add_argument("--no-adapt-scale", action="store_true", help="do not scale motion by the faces' sizes")
    one.add_argument("--best-frame", type=_best_frame, metavar="auto|N", help="count motion from this frame (0)")
    one.add_argument(
        "--crop-source", metavar="HOW", help="face, face:left, face:2, center, none or x,y,w,h (default: the preset's)"
    )
    one.add_argument("--crop-driving", metavar="HOW", help="the same for the driving video")
    one.add_argument("--paste-back", action="store_true", help="show the whole picture, not the animated square alone")
    segment(one)
    one.add_argument("--no-audio", action="store_true", help="a silent film")
    one.add_argument("--no-provenance", action="store_true", help="do not tag the film as made by a model")

    cut = command("crop", crop_file, "Cut a picture (to PNG) or a video (to mp4, with sound) to a square.")
    cut.add_argument("file", type=Path)
    cut.add_argument("-o", "--output", type=Path, required=True)
    cut.add_argument("--mode", default="face", metavar="HOW", help="face, center, none or x,y,w,h (default: face)")
    cut.add_argument("--size", type=_count, default=256, metavar="N", help="side in pixels (default: 256)")
    segment(cut)

    keypoints = command("motion", find_motion, "Find and save the keypoints of a driving video (npz).")
    keypoints.add_argument("driving", type=Path)
    keypoints.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.npz")
    keypoints.add_argument("--crop", metavar="HOW", help="face, center, none or x,y,w,h (default: the preset's)")
    model(keypoints)
    segment(keypoints)

    sound = command("remux", remux_file, "Put a driving video's sound under a silent film.")
    sound.add_argument("film", type=Path)
    sound.add_argument("driving", type=Path)
    sound.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.mp4")
    segment(sound)

    grid = command("mosaic", mosaic_films, "Show many films at once in one, with the sound of the first that has any.")
    grid.add_argument("films", type=Path, nargs="+", metavar="FILM", help="e.g. results/anna/*.mp4")
    grid.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.mp4")
    grid.add_argument("--columns", type=_count, metavar="N", help="films in a row (default: as many as there are rows)")

    weights = command("checkpoint", checkpoint, "Show a checkpoint, or convert it to safetensors.")
    actions = weights.add_subparsers(dest="action", metavar="show|convert", required=True)
    show = actions.add_parser("show", help="print the digest of the weights and the presets they fit")
    show.add_argument("file", type=Path)
    convert = actions.add_parser("convert", help="write the weights as safetensors")
    convert.add_argument("file", type=Path)
    convert.add_argument("output", type=Path, metavar="OUT.safetensors")
    convert.add_argument("--half", action="store_true", help="in half the size, in half precision")

    new = command("init", init, "Make a run folder: config.yaml, folders for pictures and videos, profiles, Snakefile.")
    new.add_argument("folder", type=Path, metavar="DIR", help="new or there already; nothing in it is overwritten")
    new.add_argument("--examples", action="store_true", help="with the example pictures and videos in it")
    keys = command("config", configuration, "Print every key of config.yaml: default and meaning.", add_help=False)
    keys.add_argument("-h", "--help", action=_ConfigurationHelp, nargs=0, help="show this and every key")
    keys.add_argument(
        "--format", choices=["text", "yaml", "markdown"], default="text", help="yaml: a config.yaml to start from"
    )

    carry = command("stage", stage, "Carry this folder's run to a cluster and its results back, by rsync over ssh.")
    ways = carry.add_subparsers(dest="action", metavar="push|pull", required=True)
    there = ways.add_parser("push", help="carry config.yaml and what it names there, and from a clone the program")
    there.add_argument("place", metavar="HOST:DIR", help="or a folder of this machine")
    there.add_argument("--delete", action="store_true", help="remove what a push brought there and is not here")
    back = ways.add_parser("pull", help="carry the results here, and what the run remembers")
    back.add_argument("place", metavar="HOST:DIR", nargs="?", help="default: where the last push went")
    for each in (there, back):
        each.add_argument("-n", "--dry-run", action="store_true", help="tell what would be carried, change nothing")

    work = command("shard", shard, "Do one stage of a shard of the plan (the workflow's own command).")
    work.add_argument("stage", choices=["prepare", "motion", "animate", "show", "remux"])
    work.add_argument("receipt", metavar="RECEIPT", help="the shard and the name of its receipt: SHARD.DUE")
    work.add_argument("--device", choices=["auto", "cpu", "cuda"], help="default: as config.yaml says")
    work.add_argument("--threads", type=_count, metavar="N")
    work.add_argument("--scratch", metavar="DIR", help="fast disk of this machine (default: as config.yaml says)")
    work.add_argument("--log", type=Path)

    look = command(
        "check", check, "Look at every picture and video before anything is animated; say what is wrong (exit code 1)."
    )
    look.add_argument("--json", action="store_true")
    look.add_argument("--no-poses", action="store_true", help="do not compare poses, for which the network is loaded")
    look.add_argument("--threads", type=_count, metavar="N", help="files looked at at once (default: one a core)")
    look.add_argument("--receipt", help=argparse.SUPPRESS)
    look.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    page = command("gallery", gallery, "Write the gallery of the run in this folder.")
    page.add_argument(
        "--report", type=Path, metavar="DIR", help="lay out in a new folder, as links, what the page for others shows"
    )
    page.add_argument("--going", action="store_true", help="say on the page that the run goes on")
    page.add_argument("--receipt", help=argparse.SUPPRESS)
    page.add_argument("--log", type=Path)
    times = command("plots", plots, "Draw the times of pairs, stages and shards of the run in this folder.")
    times.add_argument("--log", type=Path)
    judge = command("verdict", verdict, "Fail, naming what could not be made (the workflow's last step).")
    judge.add_argument("--receipt", type=Path, required=True)
    judge.add_argument("--log", type=Path)

    state = command("status", status, "Say how far the run in this folder is, what failed, what is superfluous.")
    state.add_argument("--json", action="store_true")
    state.add_argument(
        "--watch", type=_seconds, nargs="?", const=Fraction(10), metavar="S", help="again every S seconds (10)"
    )
    command("verify", verify, "Check every film of the run against its record; snakemake makes wrong ones again.")
    again = command("forget", forget, "Have pairs made anew by the next snakemake.")
    again.add_argument(
        "pairs", nargs="*", metavar="PAIR", help="driving/image[@variant], or driving/ for a whole video"
    )
    again.add_argument("--failed", action="store_true", help="all pairs that failed")
    tidy = command("clean", clean, "Remove films whose pair is gone and what dead workers left.")
    tidy.add_argument("-n", "--dry-run", action="store_true")
    health = command("doctor", doctor, "Say what is installed and working here, and what to do about what is not.")
    health.add_argument("--json", action="store_true")
    return parser


def _count(text: str) -> int:
    if not re.fullmatch("[0-9]{1,4}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a number from 1 to 9999")
    return int(text)


def _seconds(text: str) -> Fraction:
    if re.match("-[0-9.]", text):
        raise argparse.ArgumentTypeError("seconds count from 0")
    try:
        # Fraction takes 1e99999999 too, and would write it out.
        return Fraction(text if re.fullmatch(r"[0-9]{0,9}(\.[0-9]{0,9}|/[0-9]{1,9})?", text) else "")
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a number of seconds") from None


def _best_frame(text: str) -> int | str:
    if text == "auto":
        return text
    if not re.fullmatch("[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is neither auto nor a frame's number")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
