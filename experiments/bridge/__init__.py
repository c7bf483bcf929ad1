"""The bridge study: GPN networks under the other papers' lenses."""
