"""Files: they are written atomically, and a damaged file gives a clear error message.

atomic.py (used for every write), json_files.py, tensors.py (safetensors; never a pickle),
memory.py, cache_folder.py, lock.py (one training process for each directory). This package knows no
model. models/pretrained.py, diffusion/scheduler_file.py, pipeline.py and training/run_directory.py
define which files a UNet, a scheduler and a run have.
"""
