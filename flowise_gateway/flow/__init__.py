"""The pivot: one turn goes in, flow events come out, a transcript remains; and what all rooms share."""
