"""The MMInstruct data engine: from pictures to corrected instruction data (arXiv 2407.15838, section 3)."""
