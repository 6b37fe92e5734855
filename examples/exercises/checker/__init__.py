"""The checks of the exercises. They contain solutions: read them after you have solved yours.

compare.py      compares a result with the expected one, and recognises typical mistakes
run.py          loads what the student wrote, runs a check, and says where it failed
diffusion.py    exercises 1 to 8; a function for each, named as the exercise's file
gradients.py    exercises 9 to 16
cuda.py         exercises 17 to 24
launch.py       runs the student's kernel on the emulator
"""
