# Talkies: every picture of a folder, moved by every driving video of another, with the video's own sound.
#
# The workflow is in workflow/: prepare -> motion -> animate -> remux -> gallery, one file a stage under
# workflow/rules/. What a run does stands in config.yaml.


include: "workflow/Snakefile"


workflow.default_target = "all"
