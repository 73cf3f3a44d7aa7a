"""Huge images, looked at from coarse to fine: only what matters to the question is read.

After LRS-VQA's dynamic image pyramid and region focus (arXiv 2503.07588).
"""
