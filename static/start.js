// Before anything is drawn: from here on what needs scripts is shown, and what stands in for it is not.
document.documentElement.classList.add("js");
