// Times of day in the reader's time zone. Without this script they are in UTC.

const sameDay = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const otherDay = new Intl.DateTimeFormat([], { month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

// Shows the times below an element. Their titles keep the whole time in UTC.
export function showLocalTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    const isToday = at.toDateString() === new Date().toDateString();
    time.textContent = (isToday ? sameDay : otherDay).format(at);
  }
}

for (const zone of document.querySelectorAll("[data-zone]")) zone.textContent = "Time";
showLocalTimes(document);
