"""LivePortrait on the films of {jobs}, its models loaded once: run inside its image, in its repository. Not tried.

    python /engines/liveportrait_batch.py JOBS

In config.yaml:  engine: {name: liveportrait, command: "python /engines/liveportrait_batch.py {jobs}", batch: true,
                          result: "source--driving.mp4", binds: [examples/engines:/engines]}
"""

import json
import sys
from pathlib import Path

from src.config.argument_config import ArgumentConfig
from src.config.crop_config import CropConfig
from src.config.inference_config import InferenceConfig
from src.live_portrait_pipeline import LivePortraitPipeline

pipeline = LivePortraitPipeline(
    inference_cfg=InferenceConfig(flag_pasteback=False, flag_do_crop=False), crop_cfg=CropConfig()
)
for line in Path(sys.argv[1]).read_text().splitlines():
    job = json.loads(line)
    print(job["output"], flush=True)
    try:
        pipeline.execute(
            ArgumentConfig(
                source=job["source"],
                driving=job["driving"],
                output_dir=job["folder"],
                flag_pasteback=False,
                flag_do_crop=False,
                flag_relative_motion=job["relative"],
            )
        )
    except Exception as error:  # the others go on: talkies sees that this film is missing
        print(f"{job['source']}: {error}", flush=True)
