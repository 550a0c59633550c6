# Talkies animates every picture of a folder with every driving video of another, with the video's sound.
#
# The workflow is in workflow/: crop, cut -> motion -> animate -> show -> remux -> gallery, one file a stage under
# workflow/rules/. Settings are in config.yaml.


include: "workflow/Snakefile"


workflow.default_target = "all"
