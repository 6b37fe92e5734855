"""Files: written whole or not at all, and read with one clear sentence where they are damaged.

atomic.py (every write goes through it), json_files.py, tensors.py (safetensors; never a pickle),
cache_folder.py. This room knows no model: what a UNet, a scheduler or a run stores, and under
which name, is in models/pretrained.py, diffusion/scheduler_file.py, pipeline.py and
training/run_directory.py.
"""
