"""Conversation files and their batches, for training and evaluation alike."""

from rcp.conversations.collator import Batch, ConversationCollator, on_device
from rcp.conversations.reader import ConversationDataset
from rcp.conversations.sample import PLACEHOLDER, LoadedSample, Sample

__all__ = [
    "PLACEHOLDER",
    "Batch",
    "ConversationCollator",
    "ConversationDataset",
    "LoadedSample",
    "Sample",
    "on_device",
]
