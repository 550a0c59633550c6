"""Read the landmarks of faces in pictures with mediapipe, which needs its own environment (numpy < 2).

    python training/read_landmarks.py FRAMES.npy LANDMARKS.npy

FRAMES: uint8 [N, S, S, 3]; LANDMARKS: float32 [N, 478, 2] in pixels, NaN where no face was found.
"""

import sys

import mediapipe
import numpy as np


def main() -> None:
    frames = np.load(sys.argv[1], mmap_mode="r")
    out = np.full((len(frames), 478, 2), np.nan, np.float32)
    with mediapipe.solutions.face_mesh.FaceMesh(
        static_image_mode=True, refine_landmarks=True, max_num_faces=1, min_detection_confidence=0.3
    ) as mesh:
        for n, frame in enumerate(frames):
            found = mesh.process(np.ascontiguousarray(frame)).multi_face_landmarks
            if found:
                out[n] = [(p.x, p.y) for p in found[0].landmark]
    np.save(sys.argv[2], out * frames.shape[1])


if __name__ == "__main__":
    main()
