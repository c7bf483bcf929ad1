"""The bridge study: GPN networks in the view of the other papers."""
