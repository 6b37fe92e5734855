"""Files: written atomically, and read with a clear error message if they are damaged.

atomic.py (used for every write), json_files.py, tensors.py (safetensors; never a pickle),
cache_folder.py. This room knows no model: what a UNet, a scheduler or a run stores, and under
which name, is in models/pretrained.py, diffusion/scheduler_file.py, pipeline.py and
training/run_directory.py.
"""
