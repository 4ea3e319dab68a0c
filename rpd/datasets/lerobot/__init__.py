"""LeRobotDataset v3: parquet tables for numbers, mp4 for images, several episodes per file.

    meta/info.json                                   features, frame rate, where the files are
    meta/stats.json                                  of every feature, over all episodes
    meta/tasks.parquet                               instruction -> task_index
    meta/episodes/chunk-000/file-000.parquet         per episode: which rows, which frames of which video, statistics
    meta/rpd.json                                    ours: what each environment's actions mean
    data/chunk-000/file-000.parquet                  one row per control step
    videos/<feature>/chunk-000/file-000.mp4          one frame per row

The format is that of https://github.com/huggingface/lerobot at its codebase version v3.0. It is written and read here without
that package, which cannot be installed beside ManiSkill.
"""
