// Sets the theme before anything is painted.
document.documentElement.dataset.theme = localStorage.getItem('jobber.theme') || 'system';
