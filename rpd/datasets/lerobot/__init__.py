"""LeRobotDataset v3: parquet tables for numbers, mp4 for images, several episodes per file.

    meta/info.json                                   features, frame rate, file locations
    meta/stats.json                                  statistics of every feature, over all episodes
    meta/tasks.parquet                               instruction -> task_index
    meta/episodes/chunk-000/file-000.parquet         per episode: its rows, its frames in each video, statistics
    meta/rpd.json                                    extension: specs of the environments, which define the actions
    data/chunk-000/file-000.parquet                  one row per control step
    videos/<feature>/chunk-000/file-000.mp4          one frame per row

The format is that of https://github.com/huggingface/lerobot at its codebase version v3.0. It is written and read without that
package, which cannot be installed together with ManiSkill.
"""
