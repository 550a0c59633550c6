"""The page of `talkies app`, on which users try one picture and one driving video."""
