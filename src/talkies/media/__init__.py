"""Media: probe, read and write films through ffmpeg, add sound. It needs no torch and knows nothing of runs."""

from .clip import Clip, Sound, SoundFile, probe, probe_sound, tags
from .excerpt import excerpt_frames, write_excerpt
from .ffmpeg import ffmpeg_path, ffmpeg_version
from .film import FILM_SIZE, FilmPicture, FrameWriter, encoding
from .folders import CLIP_SUFFIXES, PICTURE_SUFFIXES, list_clips, list_pictures, not_used
from .frames import Box, read_frames
from .mosaics import MOSAIC_FILMS, MOSAIC_SIDE, mosaic
from .pictures import MAX_PIXELS, read_picture, read_smaller
from .rates import MAX_RATE
from .sound import remux, write_wav

__all__ = [
    "CLIP_SUFFIXES",
    "FILM_SIZE",
    "MAX_PIXELS",
    "MAX_RATE",
    "MOSAIC_FILMS",
    "MOSAIC_SIDE",
    "PICTURE_SUFFIXES",
    "Box",
    "Clip",
    "FilmPicture",
    "FrameWriter",
    "Sound",
    "SoundFile",
    "encoding",
    "excerpt_frames",
    "ffmpeg_path",
    "ffmpeg_version",
    "list_clips",
    "list_pictures",
    "mosaic",
    "not_used",
    "probe",
    "probe_sound",
    "read_frames",
    "read_picture",
    "read_smaller",
    "remux",
    "tags",
    "write_excerpt",
    "write_wav",
]
