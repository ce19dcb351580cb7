"""Pictures and questions in the shape of the MMInstruct release, drawn from known scenes."""
