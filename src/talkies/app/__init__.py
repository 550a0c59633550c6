"""A page on which one picture and one driving video are tried: `talkies app`."""
