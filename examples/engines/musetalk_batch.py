"""MuseTalk on the films of {jobs}: run inside its image, in the folder of its repository. Not tried.

    python /engines/musetalk_batch.py JOBS

Its inference reads one YAML file of many tasks and loads its model once.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

jobs = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
with tempfile.TemporaryDirectory() as folder:
    tasks = {
        f"task_{number}": {"video_path": job["source"], "audio_path": job["audio"], "result_name": f"{number}.mp4"}
        for number, job in enumerate(jobs)
    }
    config = Path(folder, "tasks.yaml")
    config.write_text(json.dumps(tasks))  # JSON is YAML
    command = [sys.executable, "-m", "scripts.inference", "--inference_config", str(config), "--result_dir", folder]
    code = subprocess.run([*command, "--version", "v15", "--fps", "25", "--use_float16"]).returncode
    for number, job in enumerate(jobs):
        for film in Path(folder).rglob(f"{number}.mp4"):
            shutil.move(film, job["output"])
sys.exit(code)
