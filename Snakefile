# Talkies animates every picture of a folder with every driving video of another, with the video's sound.
#
# The workflow is in workflow/: prepare -> motion -> animate -> remux -> gallery, one file a stage under
# workflow/rules/. Settings are in config.yaml.


include: "workflow/Snakefile"


workflow.default_target = "all"
