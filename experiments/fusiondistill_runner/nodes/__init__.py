"""The machines of a Ray cluster: which there are, what each can do, what they leave behind."""
