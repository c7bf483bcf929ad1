"""The vanishing study: the talk's examples and tricks, the lecture's formula."""
