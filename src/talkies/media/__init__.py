"""Media: probe, read and write films through ffmpeg, add sound. It needs no torch and knows nothing of runs."""

from .clip import Clip, SoundFile, probe, probe_sound
from .ffmpeg import ffmpeg_path, ffmpeg_version
from .film import FilmPicture, FrameWriter, encoding
from .folders import CLIP_SUFFIXES, PICTURE_SUFFIXES, list_clips, list_pictures, not_used
from .frames import read_frames
from .pictures import read_picture, read_reduced
from .sound import remux, write_excerpt, write_wav
