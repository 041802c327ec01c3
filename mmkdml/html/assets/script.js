'use strict';
// Controls of the page. Everything that they show or hide is readable without them.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const byId = (id) => document.getElementById(id);
  const announce = (text) => { byId('status').textContent = text; };
  all('[hidden].control').forEach((control) => { control.hidden = false; });

  // Theme: as the system, light or dark.
  const themes = ['system', 'light', 'dark'];
  const button = byId('theme');
  button.hidden = false;
  button.addEventListener('click', () => {
    const root = document.documentElement;
    const next = themes[(themes.indexOf(root.dataset.theme || 'system') + 1) % themes.length];
    if (next === 'system') delete root.dataset.theme; else root.dataset.theme = next;
    button.textContent = `Theme: ${next}`;
    announce(`Theme: ${next}`);
  });

  // Sorting: numbers before text, missing values last.
  const key = (row, column) => {
    const cell = row.cells[column];
    const text = (cell.dataset.value ?? cell.textContent).trim();
    const value = text === '' ? NaN : Number(text);
    return { text, value, missing: text === '' || text === '–' };
  };
  const sort = (table, column, descending) => {
    for (const body of table.tBodies) {
      const rows = [...body.rows].filter((row) => !row.classList.contains('group'));
      const keys = new Map(rows.map((row) => [row, key(row, column)]));
      rows.sort((one, other) => {
        const [a, b] = [keys.get(one), keys.get(other)];
        if (a.missing || b.missing) return a.missing - b.missing;
        const numbers = !Number.isNaN(a.value) && !Number.isNaN(b.value);
        const order = numbers ? a.value - b.value
          : a.text.localeCompare(b.text, undefined, { numeric: true });
        return descending ? -order : order;
      });
      body.append(...rows);
    }
  };
  const label = (header) => header.dataset.label ?? header.textContent.trim();
  const addSorting = (root) => all('th[data-sort]', root).forEach((header) => {
    const control = document.createElement('button');
    control.type = 'button';
    control.append(...header.childNodes);
    header.append(control);
    control.addEventListener('click', () => {
      const table = header.closest('table');
      const before = header.getAttribute('aria-sort');
      const first = header.dataset.sort === 'descending' ? 'descending' : 'ascending';
      const other = first === 'ascending' ? 'descending' : 'ascending';
      const order = before === first ? other : first;
      // Tables of one switch are sorted together.
      const together = header.closest('[data-sort-together]');
      for (const one of together ? all('table', together) : [table]) {
        const same = all('th[data-sort]', one).find((column) => label(column) === label(header));
        if (!same) continue;
        all('th[aria-sort]', one).forEach((sorted) => sorted.removeAttribute('aria-sort'));
        same.setAttribute('aria-sort', order);
        sort(one, same.cellIndex, order === 'descending');
      }
      announce(`Sorted by ${label(header)}, ${order}`);
    });
  });
  // Headers of two rows stay in place together.
  const measureHeads = () => all('thead').forEach((head) => {
    head.style.setProperty('--head', `${head.rows[0]?.offsetHeight ?? 0}px`);
  });
  addEventListener('resize', measureHeads);

  // Filters: items are rows or figures of the target; all its filters must match.
  const items = (target) => all('tbody tr:not(.group), figure', target);
  const filter = (id) => {
    const target = byId(id);
    const filters = all(`[data-filter="${CSS.escape(id)}"]`);
    for (const item of items(target)) {
      item.hidden = !filters.every((one) => {
        const wanted = one.value.trim().toLowerCase();
        if (!wanted) return true;
        if (one.dataset.key) return item.dataset[one.dataset.key] === one.value;
        return wanted.split(/\s+/).every((word) => item.textContent.toLowerCase().includes(word));
      });
    }
    for (const body of all('tbody', target)) {
      const rows = [...body.rows];
      const used = rows.some((row) => !row.classList.contains('group') && !row.hidden);
      rows.filter((row) => row.classList.contains('group')).forEach((row) => { row.hidden = !used; });
    }
    return count(id);
  };
  const count = (id) => {
    const visible = items(byId(id)).filter((item) => !item.closest('[data-off]'));
    const shown = visible.filter((item) => !item.hidden).length;
    const text = `${shown} of ${visible.length} shown`;
    all(`[data-shown="${CSS.escape(id)}"]`).forEach((output) => { output.textContent = text; });
    return text;
  };
  all('[data-filter]').forEach((control) => control.addEventListener('input', () => {
    announce(filter(control.dataset.filter));
  }));

  // Switches: of the elements with a key, only those with the chosen values are shown.
  const choose = (id) => {
    const chosen = {};
    for (const control of all(`[data-switch="${CSS.escape(id)}"]`)) {
      if (control.type !== 'radio' || control.checked) chosen[control.dataset.key] = control.value;
    }
    for (const item of all('[data-state]', byId(id))) {
      const on = Object.entries(chosen).every(([name, value]) => (
        !(name in item.dataset) || item.dataset[name] === value));
      item.hidden = !on;
      item.toggleAttribute('data-off', !on);
    }
    measureHeads();
    if (document.querySelector(`[data-shown="${CSS.escape(id)}"]`)) count(id);
    return Object.values(chosen).join(', ');
  };
  const switched = new Set(all('[data-switch]').map((control) => control.dataset.switch));
  switched.forEach(choose);
  all('[data-switch]').forEach((control) => control.addEventListener('change', () => {
    choose(control.dataset.switch);
    const text = control.selectedOptions?.[0] ?? control.parentElement;
    announce(`Showing ${text.textContent.trim()}`);
  }));
  new Set(all('[data-shown]').map((output) => output.dataset.shown)).forEach(count);
  measureHeads();

  // Lightbox: a button over each picture opens it; arrows step through the visible ones.
  const box = byId('lightbox');
  const stage = box.querySelector('.lightbox-stage');
  const pictures = () => all('[data-enlarge]').filter((frame) => frame.checkVisibility());
  let current = null;
  const show = (frame) => {
    current = frame;
    stage.replaceChildren(frame.querySelector('img, svg').cloneNode(true));
    byId('lightbox-caption').textContent = frame.parentElement.querySelector('figcaption').textContent;
  };
  const step = (by) => {
    const frames = pictures();
    show(frames[(frames.indexOf(current) + by + frames.length) % frames.length]);
  };
  const addEnlarging = (root) => all('[data-enlarge]', root).forEach((frame) => {
    const open = document.createElement('button');
    open.type = 'button';
    open.className = 'enlarge';
    const caption = frame.parentElement.querySelector('figcaption').textContent.trim();
    open.setAttribute('aria-label', `Enlarge: ${caption}`);
    open.addEventListener('click', () => { show(frame); box.showModal(); });
    frame.append(open);
  });
  box.addEventListener('click', (event) => {
    if (event.target === box || event.target.closest('[data-close]')) box.close();
    else if (event.target.dataset.step) step(Number(event.target.dataset.step));
  });
  box.addEventListener('keydown', (event) => {
    if (event.key === 'ArrowRight') step(1);
    else if (event.key === 'ArrowLeft') step(-1);
  });

  // Copying of commands and settings
  const addCopying = (root) => (navigator.clipboard ? all('.code', root) : []).forEach((block) => {
    const copy = document.createElement('button');
    copy.type = 'button';
    copy.className = 'copy';
    copy.textContent = 'Copy';
    copy.setAttribute('aria-label', `Copy: ${block.firstElementChild.getAttribute('aria-label')}`);
    copy.addEventListener('click', () => {
      const done = navigator.clipboard.writeText(block.querySelector('code').textContent);
      done.then(() => announce('Copied'), () => announce('Copying failed'));
    });
    block.append(copy);
  });
  const addControls = (root) => [addSorting, addEnlarging, addCopying].forEach((add) => add(root));
  addControls(document);

  // Compressed parts are inserted when they come into view.
  const insert = async (place) => {
    const data = Uint8Array.from(
      atob(place.querySelector('template').content.textContent), (one) => one.charCodeAt(0));
    const stream = new Blob([data]).stream().pipeThrough(new DecompressionStream('gzip'));
    const part = document.createRange().createContextualFragment(await new Response(stream).text());
    const target = place.closest('[data-sort-together]');
    place.classList.remove('lazy');
    place.replaceChildren(part);
    addControls(place);
    // Sorted and filtered as the other tables of its switch
    const sorted = target && all('th[aria-sort]', target).find((one) => !place.contains(one));
    for (const table of sorted ? all('table', place) : []) {
      const same = all('th[data-sort]', table).find((column) => label(column) === label(sorted));
      if (!same) continue;
      same.setAttribute('aria-sort', sorted.getAttribute('aria-sort'));
      sort(table, same.cellIndex, sorted.getAttribute('aria-sort') === 'descending');
    }
    const filtered = place.closest('[id]');
    if (filtered && document.querySelector(`[data-filter="${CSS.escape(filtered.id)}"]`)) filter(filtered.id);
    measureHeads();
  };
  const arriving = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((one) => one.isIntersecting)) {
      arriving.unobserve(entry.target);
      insert(entry.target).catch((error) => { entry.target.append(`: ${error}`); });
    }
  }, { rootMargin: '300px' });
  all('.lazy').forEach((place) => arriving.observe(place));

  // Contents: mark the section that is read.
  const links = new Map(all('.contents a').map((link) => [link.hash.slice(1), link]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      links.forEach((link) => link.removeAttribute('aria-current'));
      links.get(entry.target.id).setAttribute('aria-current', 'true');
    }
  }, { rootMargin: '0px 0px -75% 0px' });
  links.forEach((_, id) => { if (byId(id)) seen.observe(byId(id)); });
})();
