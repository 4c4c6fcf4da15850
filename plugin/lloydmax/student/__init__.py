"""The student: the model being compressed, while it is trained and when it is finished."""
