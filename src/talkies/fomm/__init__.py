"""The First Order Motion Model: network, fast form, keypoints of a clip, engine. Nothing else needs torch."""
