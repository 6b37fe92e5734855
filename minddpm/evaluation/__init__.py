"""Measure sample quality: metrics/, report.py (digits, with reference values), own_images.py (any
other images), own_command.py (the part of the command for these), comparison/.
"""
