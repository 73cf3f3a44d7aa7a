"""Conversation files and their batches, for whoever needs no trainer."""

from rcp.training.collator import Batch, ConversationCollator
from rcp.training.conversations import ConversationDataset, LoadedSample, Sample

__all__ = ["Batch", "ConversationCollator", "ConversationDataset", "LoadedSample", "Sample"]
