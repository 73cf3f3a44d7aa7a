"""What a plug-in is held to: terms of the loss, what pruners are taught, answers that count."""
