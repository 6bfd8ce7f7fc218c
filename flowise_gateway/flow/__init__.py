"""The pivot: one turn goes in, flow events come out, a transcript is what remains of them."""
